// Preloaded, it refuses the memory that is asked for by one size: `refuse(size)`, and `refuse(0)` for none.

#include <atomic>
#include <cstdlib>
#include <new>

static std::atomic<std::size_t> refused{0};

extern "C" void refuse(std::size_t size) { refused = size; }

void *operator new(std::size_t size) {
  if (size && size == refused) throw std::bad_alloc();
  if (void *found = std::malloc(size ? size : 1)) return found;
  throw std::bad_alloc();
}

void operator delete(void *p) noexcept { std::free(p); }
void operator delete(void *p, std::size_t) noexcept { std::free(p); }
