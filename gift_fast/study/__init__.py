"""Studies: what was published, how losses are compared, and what may be said of a published number.

They need the extra ``gift-fast[student]``.
"""
