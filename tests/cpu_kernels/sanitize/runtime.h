// A stand-in for XLA around a handler: buffers, a call frame, a pool of threads.

#pragma once

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "xla/ffi/api/c_api.h"

struct XLA_FFI_Error {
  std::string message;
};

namespace runtime {

// Threads that take tasks; one of them is the caller, as in XLA.
class Pool {
 public:
  explicit Pool(int threads) : size(threads) {
    for (int i = 1; i < threads; ++i) threads_.emplace_back([this] { serve(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    for (std::thread &thread : threads_) thread.join();
  }
  void schedule(XLA_FFI_Task *task, void *data) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.emplace_back(task, data);
    }
    changed_.notify_one();
  }
  const int size;

 private:
  void serve() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return stopped_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const auto [task, data] = tasks_.front();
      tasks_.pop_front();
      lock.unlock();
      task(data);
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<XLA_FFI_Task *, void *>> tasks_;
  std::vector<std::thread> threads_;
  bool stopped_ = false;
};

inline Pool *&pool() {
  static Pool *current = nullptr;
  return current;
}

inline size_t size_of(XLA_FFI_DataType type) {
  switch (type) {
    case XLA_FFI_DataType_F64: return 8;
    case XLA_FFI_DataType_F32: return 4;
    case XLA_FFI_DataType_BF16: return 2;
    default: return 1;
  }
}

// An array that ends where its allocation ends, so that a sanitizer sees what is read or written beyond it, and that
// begins `shift` elements after where XLA would put it. What is in front of it is looked at by `intact`.
class Buffer {
 public:
  Buffer(XLA_FFI_DataType type, std::vector<int64_t> dims, int64_t shift = 0)
      : dims_(std::move(dims)), front_(shift * size_of(type)) {
    bytes = size_of(type);
    for (int64_t n : dims_) bytes *= n;
    if (posix_memalign(reinterpret_cast<void **>(&memory_), 64, front_ + bytes + (front_ + bytes == 0))) std::abort();
    std::memset(memory_, kFilling, front_ + bytes);
    view.struct_size = XLA_FFI_Buffer_STRUCT_SIZE;
    view.dtype = type, view.data = memory_ + front_, view.rank = dims_.size(), view.dims = dims_.data();
  }
  Buffer(const Buffer &) = delete;
  ~Buffer() { std::free(memory_); }
  bool intact() const {
    for (size_t i = 0; i < front_; ++i)
      if (memory_[i] != kFilling) return false;
    return true;
  }
  void forget() { std::memset(view.data, kFilling, bytes); }
  std::vector<uint8_t> content() const {
    const auto *data = static_cast<const uint8_t *>(view.data);
    return {data, data + bytes};
  }
  template <class T>
  T *as() const {
    return static_cast<T *>(view.data);
  }
  size_t bytes;
  XLA_FFI_Buffer view{};

 private:
  static constexpr uint8_t kFilling = 0xab;
  std::vector<int64_t> dims_;
  size_t front_;
  uint8_t *memory_;
};

inline XLA_FFI_Api *api() {
  static XLA_FFI_Api api = [] {
    XLA_FFI_Api made{};
    made.struct_size = XLA_FFI_Api_STRUCT_SIZE;
    made.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
    made.XLA_FFI_Error_Create = [](XLA_FFI_Error_Create_Args *args) { return new XLA_FFI_Error{args->message}; };
    made.XLA_FFI_Error_GetMessage = [](XLA_FFI_Error_GetMessage_Args *args) {
      args->message = args->error->message.c_str();
    };
    made.XLA_FFI_Error_Destroy = [](XLA_FFI_Error_Destroy_Args *args) { delete args->error; };
    made.XLA_FFI_ThreadPool_Schedule = [](XLA_FFI_ThreadPool_Schedule_Args *args) -> XLA_FFI_Error * {
      pool()->schedule(args->task, args->data);
      return nullptr;
    };
    made.XLA_FFI_ThreadPool_NumThreads = [](XLA_FFI_ThreadPool_NumThreads_Args *args) -> XLA_FFI_Error * {
      *args->num_threads = pool()->size;
      return nullptr;
    };
    return made;
  }();
  return &api;
}

// Calls a handler as XLA does; returns what it complains of, or nothing.
inline std::string call(XLA_FFI_Handler *handler, const std::vector<Buffer *> &arguments,
                        const std::vector<Buffer *> &results, const std::vector<int64_t> &lengths, bool centred) {
  std::vector<XLA_FFI_ArgType> argument_types(arguments.size(), XLA_FFI_ArgType_BUFFER);
  std::vector<XLA_FFI_RetType> result_types(results.size(), XLA_FFI_RetType_BUFFER);
  std::vector<void *> argument_views, result_views;
  for (Buffer *buffer : arguments) argument_views.push_back(&buffer->view);
  for (Buffer *buffer : results) result_views.push_back(&buffer->view);
  XLA_FFI_Array array{XLA_FFI_DataType_S64, lengths.size(), const_cast<int64_t *>(lengths.data())};
  XLA_FFI_Scalar scalar{XLA_FFI_DataType_PRED, &centred};
  XLA_FFI_ByteSpan names[] = {{"centred", 7}, {"lengths", 7}};  // in alphabetic order
  XLA_FFI_ByteSpan *name_of[] = {&names[0], &names[1]};
  void *attributes[] = {&scalar, &array};
  XLA_FFI_AttrType attribute_types[] = {XLA_FFI_AttrType_SCALAR, XLA_FFI_AttrType_ARRAY};
  XLA_FFI_CallFrame frame{};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = api();
  frame.stage = XLA_FFI_ExecutionStage_EXECUTE;
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, static_cast<int64_t>(arguments.size()), argument_types.data(),
                argument_views.data()};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, static_cast<int64_t>(results.size()), result_types.data(),
                result_views.data()};
  frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr, 2, attribute_types, name_of, attributes};
  XLA_FFI_Error *error = handler(&frame);
  if (!error) return "";
  const std::string message = error->message;
  delete error;
  return message;
}

}  // namespace runtime
