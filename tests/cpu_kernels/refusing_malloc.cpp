// Preloaded, it refuses the memory that is asked for by one size: `refuse(size)`, and `refuse(0)` for none.

#include <atomic>
#include <cerrno>
#include <cstddef>

extern "C" void *__libc_malloc(std::size_t);  // glibc's own

static std::atomic<std::size_t> refused{0};

extern "C" void refuse(std::size_t size) { refused = size; }

extern "C" void *malloc(std::size_t size) {
  if (!size || size != refused) return __libc_malloc(size);
  errno = ENOMEM;
  return nullptr;
}
