// Which hard labels of a row count, and the shares of the row that are theirs: for every kernel.
//
// A kernel has the problem as `problem`, the factors of the gradients as `weight`, and
//   bool row<labels>(const RowIndex&, targets, weights, losses, BadRow&)   computes one row
//   void ignored(int64_t row)                                              writes zeros

inline bool in_range(const Problem& problem, int64_t target) {
  return target == problem.ignore_index || (target >= 0 && target < problem.classes);
}

// The losses of a row's labels times their shares of the row. False: it is a bad one.
template <class Kernel>
bool labeled_row(const Kernel& kernel, const RowIndex& at, ByTarget& loss, BadRow& bad) {
  const Problem& problem = kernel.problem;
  const ByTarget& weight = kernel.weight;
  const int64_t target = target_of(problem, at);
  if (!in_range(problem, target)) return false;
  const bool counts = target != problem.ignore_index;
  if (problem.other_target == nullptr) {
    double losses[1] = {0.0};
    if (counts) {
      if (!kernel.template row<1>(at, {target}, {weight.target}, losses, bad)) return false;
    } else {
      kernel.ignored(at.row);
    }
    loss.target = losses[0];
    return true;
  }

  const int64_t other = other_target_of(problem, at);
  if (!in_range(problem, other)) return false;
  const bool other_counts = other != problem.ignore_index;
  const double share = target_weight_of(problem, at), rest = 1.0 - share;
  if (counts && other_counts) {
    double losses[2];
    if (!kernel.template row<2>(at, {target, other}, {share * weight.target, rest * weight.other},
                                losses, bad))
      return false;
    loss = {share * losses[0], rest * losses[1]};
  } else if (counts || other_counts) {
    double losses[1];
    if (!kernel.template row<1>(at, {counts ? target : other},
                                {counts ? share * weight.target : rest * weight.other}, losses,
                                bad))
      return false;
    (counts ? loss.target : loss.other) = (counts ? share : rest) * losses[0];
  } else {
    kernel.ignored(at.row);
  }
  return true;
}

// Rows [begin, end); Loss is the type of the row losses.
template <class Loss, class Kernel>
RowsResult run_rows(const Kernel& kernel, int64_t begin, int64_t end) {
  const Problem& problem = kernel.problem;
  RowsResult result = {{0.0, 0.0}, {-1, BadRow::kTarget, 0.0, 0.0}};
  for (RowIndex at = row_index(problem, begin); at.row < end; at.advance(problem)) {
    ByTarget loss = {0.0, 0.0};
    if (!labeled_row(kernel, at, loss, result.bad)) {
      result.bad.row = at.row;
      return result;
    }
    if (problem.row_losses != nullptr)
      static_cast<Loss*>(problem.row_losses)[at.row] = Loss(loss.target + loss.other);
    result.loss.target += loss.target;
    result.loss.other += loss.other;
  }
  if (problem.stream) stream_fence();
  return result;
}
