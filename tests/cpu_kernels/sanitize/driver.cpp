// Calls the handlers as XLA does, for arrays of every kind, with 1 to 7 threads: compiled with a sanitizer, it tells
// what they read, write or share that they should not. Results are held to a reference in double, and to be the same
// bits for any number of threads.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include "runtime.h"

extern "C" XLA_FFI_Error *braindnorm_forward(XLA_FFI_CallFrame *);
extern "C" XLA_FFI_Error *braindnorm_backward(XLA_FFI_CallFrame *);
extern "C" XLA_FFI_Error *braindnorm_forward_columns(XLA_FFI_CallFrame *);
extern "C" XLA_FFI_Error *braindnorm_backward_columns(XLA_FFI_CallFrame *);

namespace {

using runtime::Buffer;

struct Shape {
  int64_t batch, space, groups, channels, tail;
};

enum class Masked { kNot, kRows, kElements };

struct Case {
  Shape shape;
  XLA_FFI_DataType x, arithmetic;
  Masked masked;
  bool centred;
  int64_t shift;  // of all arrays, in elements, from where they are aligned
  bool columns;   // each group is a column of `space` elements
  int64_t sets;   // as many parts of the batch have parameters of their own

  // How many elements a mask of rows has one entry for.
  int64_t row() const {
    return columns ? shape.groups : (shape.groups == 1 ? shape.space : 1) * shape.channels * shape.tail;
  }
  int64_t entries(int64_t n) const { return masked == Masked::kNot ? 0 : masked == Masked::kRows ? n / row() : n; }
};

double read(const Buffer &buffer, int64_t i) {
  switch (buffer.view.dtype) {
    case XLA_FFI_DataType_F64: return buffer.as<double>()[i];
    case XLA_FFI_DataType_F32: return buffer.as<float>()[i];
    default: {
      const uint32_t wide = uint32_t(buffer.as<uint16_t>()[i]) << 16;
      float value;
      std::memcpy(&value, &wide, sizeof value);
      return value;
    }
  }
}

void write(const Buffer &buffer, int64_t i, double v) {
  switch (buffer.view.dtype) {
    case XLA_FFI_DataType_F64: buffer.as<double>()[i] = v; break;
    case XLA_FFI_DataType_F32: buffer.as<float>()[i] = static_cast<float>(v); break;
    default: {
      const float narrow = static_cast<float>(v);
      uint32_t wide;
      std::memcpy(&wide, &narrow, sizeof wide);
      buffer.as<uint16_t>()[i] = static_cast<uint16_t>(std::isnan(v) ? 0x7fc0 : wide >> 16);
    }
  }
}

[[noreturn]] void fail(const Case &c, const std::string &what) {
  std::printf("[%ld %ld %ld %ld %ld] in %ld sets, dtype %d mask %d centred %d: %s\n", long(c.shape.batch),
              long(c.shape.space), long(c.shape.groups), long(c.shape.channels), long(c.shape.tail), long(c.sets), int(c.x),
              int(c.masked), c.centred, what.c_str());
  std::exit(1);
}

void expect(const Case &c, const char *what, double found, double wanted, double tolerance) {
  if (!(std::fabs(found - wanted) <= tolerance))
    fail(c, std::string(what) + " is " + std::to_string(found) + ", not " + std::to_string(wanted));
}

class Trial {
 public:
  Trial(const Case &of, std::mt19937_64 &random)
      : c(of), n(of.shape.batch * of.shape.space * of.shape.groups * of.shape.channels * of.shape.tail),
        parameters(of.sets * of.shape.groups * of.shape.channels), items(of.shape.batch * of.shape.groups),
        x(c.x, {n}, c.shift), g(c.arithmetic, {n}, c.shift), scale(c.arithmetic, {parameters}, c.shift),
        bias(c.arithmetic, {parameters}, c.shift), epsilon(c.arithmetic, {c.sets}, 0),
        valid(XLA_FFI_DataType_PRED, {c.entries(n)}, c.shift),
        y(c.arithmetic, {n}, c.shift), kept(c.arithmetic, {items, c.columns ? 5 : 3}, c.shift), dx(c.x, {n}, c.shift),
        dscale(c.arithmetic, {parameters}, c.shift), dbias(c.arithmetic, {parameters}, c.shift),
        none(c.x, {0}, 0) {
    std::normal_distribution<double> normal;
    const double share = random() % 4 ? 0.7 : 0.02;
    for (size_t i = 0; i < valid.bytes; ++i) valid.as<uint8_t>()[i] = random() % 1000 < share * 1000;
    for (int64_t i = 0; i < n; ++i) {
      const bool padding = !is_valid(i);
      write(x, i, padding && random() % 2 ? NAN : 2 + normal(random));
      write(g, i, padding && random() % 2 ? std::numeric_limits<double>::infinity() : normal(random));
    }
    for (int64_t i = 0; i < parameters; ++i) write(scale, i, 1 + 0.3 * normal(random)), write(bias, i, normal(random));
    const bool alike = random() % 2;
    for (int64_t i = 0; i < c.sets; ++i) write(epsilon, i, alike ? 1e-2 : 1e-2 * (1 + i % 5));
  }

  void run() {
    const auto forward = c.columns ? braindnorm_forward_columns : braindnorm_forward;
    const auto backward = c.columns ? braindnorm_backward_columns : braindnorm_backward;
    std::vector<std::vector<uint8_t>> first;
    for (int threads = 1; threads <= 7; ++threads) {
      runtime::Pool pool(threads);
      runtime::pool() = &pool;
      for (Buffer *result : {&y, &kept, &dx, &dscale, &dbias}) result->forget();
      const Shape &s = c.shape;
      const std::vector<int64_t> lengths{s.batch, s.space, s.groups, s.channels, s.tail, c.sets};
      said(runtime::call(forward, {&x, &valid, &epsilon, &scale, &bias}, {&y, &kept}, lengths, c.centred));
      said(runtime::call(backward, {&x, &valid, &g, &scale, &kept}, {&dx, &dscale, &dbias}, lengths, c.centred));
      std::vector<std::vector<uint8_t>> found;
      for (Buffer *result : {&y, &kept, &dx, &dscale, &dbias}) found.push_back(result->content());
      dscale.forget(), dbias.forget();
      said(runtime::call(backward, {&x, &valid, &g, &scale, &kept}, {&none, &dscale, &dbias}, lengths, c.centred));
      if (dscale.content() != found[3] || dbias.content() != found[4]) fail(c, "without dx the others differ");
      for (Buffer *buffer : {&x, &g, &scale, &bias, &valid, &y, &kept, &dx, &dscale, &dbias})
        if (!buffer->intact()) fail(c, "something was written in front of an array");
      if (threads == 1) first = found, compare();
      if (found != first) fail(c, "the result depends on the number of threads: " + std::to_string(threads));
    }
    if (c.masked == Masked::kNot && !c.columns && c.sets == 1)
      for (int64_t batch = 1; batch < std::min<int64_t>(c.shape.batch, 10); ++batch) compare_with_fewer(batch, first);
  }

 private:
  bool is_valid(int64_t i) const {
    if (c.masked == Masked::kNot) return true;
    return valid.as<uint8_t>()[c.masked == Masked::kRows ? i / c.row() : i];
  }
  void said(const std::string &complaint) const {
    if (!complaint.empty()) fail(c, complaint);
  }

  // The digits of the first elements of the batch do not depend on the others.
  void compare_with_fewer(int64_t batch, const std::vector<std::vector<uint8_t>> &whole) {
    const Shape &s = c.shape;
    runtime::Pool pool(1);
    runtime::pool() = &pool;
    const std::vector<int64_t> lengths{batch, s.space, s.groups, s.channels, s.tail, 1};
    y.forget(), kept.forget(), dx.forget();
    said(runtime::call(braindnorm_forward, {&x, &valid, &epsilon, &scale, &bias}, {&y, &kept}, lengths, c.centred));
    said(runtime::call(braindnorm_backward, {&x, &valid, &g, &scale, &kept}, {&dx, &dscale, &dbias}, lengths, c.centred));
    const std::vector<uint8_t> found[] = {y.content(), kept.content(), dx.content()};
    for (int i : {0, 1, 2})
      if (!std::equal(found[i].begin(), found[i].begin() + found[i].size() / s.batch * batch, whole[i].begin()))
        fail(c, "the result depends on the rest of the batch, without which it has " + std::to_string(batch));
  }

  void compare() const {
    const Shape &s = c.shape;
    const bool narrow = c.arithmetic == XLA_FFI_DataType_F32;
    const double exact = narrow ? 2e-5 : 1e-12, rounded = c.x == XLA_FFI_DataType_BF16 ? 0.01 : 10 * exact;
    std::vector<double> of_scale(parameters), of_bias(parameters);
    for (int64_t item = 0; item < items; ++item) {
      const int64_t b = item / s.groups, group = item % s.groups, set = b / (s.batch / c.sets);
      std::vector<int64_t> members, channels;
      for (int64_t p = 0; p < s.space; ++p)
        for (int64_t k = 0; k < s.channels; ++k)
          for (int64_t t = 0; t < s.tail; ++t)
            members.push_back((((b * s.space + p) * s.groups + group) * s.channels + k) * s.tail + t),
                channels.push_back((set * s.groups + group) * s.channels + k);
      double count = 0, mean = 0, square = 0, one = 0, two = 0;
      for (int64_t i : members)
        if (is_valid(i)) ++count, mean += read(x, i);
      mean = c.centred && count > 0 ? mean / count : 0;
      for (int64_t i : members)
        if (is_valid(i)) square += (read(x, i) - mean) * (read(x, i) - mean);
      const double var = square / std::max(count, 1.0), r = count > 0 ? 1 / std::sqrt(var + read(epsilon, set)) : 0;
      if (c.columns) {  // an array each of the mean, its rest, r, the variance and the count
        const auto moment = [&](int64_t k) { return read(kept, (5 * b + k) * s.groups + group); };
        expect(c, "the mean", moment(0) + moment(1), mean, exact);
        expect(c, "the variance", moment(3), var, exact * (1 + var));
        expect(c, "the count", moment(4), count, 0);
      }
      for (size_t m = 0; m < members.size(); ++m) {
        const int64_t i = members[m], k = channels[m];
        if (!is_valid(i)) continue;
        const double z = (read(x, i) - mean) * r, factor = read(scale, k);
        one += read(g, i) * factor, two += read(g, i) * factor * z;
        of_scale[k] += read(g, i) * z, of_bias[k] += read(g, i);
        expect(c, "y", read(y, i), z * factor + read(bias, k), exact * (10 + std::fabs(z)));
      }
      for (size_t m = 0; m < members.size(); ++m) {
        const int64_t i = members[m];
        const double z = (read(x, i) - mean) * r;
        const double wanted = r * (read(g, i) * read(scale, channels[m]) - c.centred * one / count - z * two / count);
        if (is_valid(i)) expect(c, "dx", read(dx, i), wanted, rounded * (1 + std::fabs(wanted)) * std::max(r, 1.0));
        else if (read(y, i) != 0 || read(dx, i) != 0) fail(c, "padding is not 0");
      }
    }
    for (int64_t k = 0; k < parameters; ++k) {
      const double tolerance = exact * 10 * std::sqrt(static_cast<double>(n / parameters));
      expect(c, "dscale", read(dscale, k), of_scale[k], tolerance + exact * std::fabs(of_scale[k]));
      expect(c, "dbias", read(dbias, k), of_bias[k], tolerance + exact * std::fabs(of_bias[k]));
    }
  }

  const Case c;
  const int64_t n, parameters, items;
  Buffer x, g, scale, bias, epsilon, valid, y, kept, dx, dscale, dbias, none;
};

// Rows of every length about that of a vector, of a block, and of several at once; groups, tails and spaces, large ones
// too; and so many elements that several threads share them. With BRAINDNORM_FAR=0, what is aligned is written past the
// cache.
const Shape kShapes[] = {
    {1, 1, 1, 1, 1},    {3, 1, 1, 7, 1},    {9, 1, 1, 8, 1},     {37, 1, 1, 17, 1},  {64, 1, 1, 128, 1}, {5, 1, 1, 4095, 1},
    {7, 1, 1, 4097, 1}, {3, 1, 1, 9001, 1}, {301, 1, 1, 130, 1}, {4, 1, 1, 9000, 1}, {9, 1, 5, 13, 1},  {40, 1, 3, 300, 1},
    {2, 1, 3, 4, 5},    {3, 1, 4, 3, 4100}, {30, 1, 8, 4, 49},   {1, 2, 1, 1, 1},   {3, 70, 2, 9, 1},   {8, 65, 4, 16, 1},
    {20, 30, 3, 33, 1}, {2, 900, 4, 8, 1},  {1, 1500, 16, 1, 1}, {1, 5000, 1, 5, 1},
    {5, 1, 3, 8, 16},   {70, 1, 4, 16, 1},  {1, 2100, 4, 8, 1},  {12, 9, 1, 40, 1},  {6, 3, 1, 4200, 1}, {4, 1, 1, 70001, 1},
    {2, 40000, 2, 1, 1}, {90, 1, 1, 1024, 1},
};

// As many rows, and columns, as several tasks share; tiles; several matrices.
const Shape kColumns[] = {
    {1, 1, 1, 1, 1},       {2, 1, 9, 1, 1},    {3, 64, 128, 1, 1},  {1, 65, 17, 1, 1},
    {1, 4, 5000, 1, 1},    {2, 300, 250, 1, 1}, {1, 513, 33, 1, 1},  {2, 1300, 40, 1, 1},
    {1, 700, 1100, 1, 1},  {300, 30, 20, 1, 1}, {1, 5000, 16, 1, 1},
};

// A set for each element of the batch, or for some at a time.
int64_t sets_of(const Shape &shape, std::mt19937_64 &random) {
  int64_t each = random() % 2 ? 1 : 2 + random() % 8;
  while (shape.batch % each) --each;
  return shape.batch / each;
}

}  // namespace

int main() {
  const std::pair<XLA_FFI_DataType, XLA_FFI_DataType> kinds[] = {
      {XLA_FFI_DataType_F32, XLA_FFI_DataType_F32},
      {XLA_FFI_DataType_BF16, XLA_FFI_DataType_F32},
      {XLA_FFI_DataType_F64, XLA_FFI_DataType_F64},
  };
  std::mt19937_64 random(1);
  long trials = 0;
  for (const Shape &shape : kShapes)
    for (const auto &[x, arithmetic] : kinds)
      for (Masked masked : {Masked::kNot, Masked::kRows, Masked::kElements})
        for (bool centred : {true, false}) {
          const bool slabs = shape.space > 1 && shape.groups > 1;
          if (slabs && (masked == Masked::kRows || !centred)) continue;  // there are no such
          const int64_t shift = random() % 4;
          Trial({shape, x, arithmetic, masked, centred, shift, false, 1}, random).run(), ++trials;
          if (shape.batch > 1 && random() % 2)
            Trial({shape, x, arithmetic, masked, centred, shift, false, sets_of(shape, random)}, random).run(),
                ++trials;
        }
  for (const Shape &shape : kColumns)
    for (const auto &[x, arithmetic] : kinds)
      for (Masked masked : {Masked::kNot, Masked::kRows, Masked::kElements}) {
        for (int64_t sets : {int64_t(1), sets_of(shape, random)}) {
          Trial({shape, x, arithmetic, masked, true, static_cast<int64_t>(random() % 4), true, sets}, random).run();
          ++trials;
        }
      }
  std::printf("%ld cases, each with 1 to 7 threads: nothing found\n", trials);
}
