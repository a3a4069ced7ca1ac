//go:build cgo

#define _GNU_SOURCE
#include "shim.h"

#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static void note(covey_log* log, const char* format, va_list args) {
  size_t room = sizeof(log->text) - log->used;
  if (room < 8) return;
  if (log->used > 0) {
    memcpy(log->text + log->used, "; ", 3);
    log->used += 2, room -= 2;
  }
  int n = vsnprintf(log->text + log->used, room, format, args);
  if (n < 0) n = 0;
  log->used += (size_t)n < room ? (size_t)n : room - 1;
}

static void report(void* user, const char* format, va_list args) { note(user, format, args); }

static void say(covey_log* log, const char* format, ...) {
  va_list args;
  va_start(args, format);
  note(log, format, args);
  va_end(args);
}

TfLiteModel* covey_model(const void* data, size_t size, covey_log* log) {
  return TfLiteModelCreateWithErrorReporter(data, size, report, log);
}

void covey_options_log(void* options, covey_log* log) {
  TfLiteInterpreterOptionsSetErrorReporter(options, report, log);
}

bool covey_tensor_shape(const void* p, covey_shape* s) {
  const TfLiteTensor* t = p;
  s->type = t->type;
  s->dynamic = t->allocation_type == kTfLiteDynamic;
  s->rank = t->dims ? t->dims->size : 0;
  if (s->rank < 0 || s->rank > 8) return false;
  for (int i = 0; i < s->rank; i++) s->dims[i] = t->dims->data[i];
  return true;
}

covey_ran covey_invoke(void* interpreter) {
  struct timespec a, b;
  covey_ran r;
  clock_gettime(CLOCK_MONOTONIC, &a);
  r.status = TfLiteInterpreterInvoke(interpreter);
  clock_gettime(CLOCK_MONOTONIC, &b);
  r.ns = (int64_t)(b.tv_sec - a.tv_sec) * 1000000000 + (b.tv_nsec - a.tv_nsec);
  return r;
}

typedef TfLiteDelegate* (*xnnpack_create)(const void* options);
typedef void (*xnnpack_delete)(TfLiteDelegate*);
typedef uint32_t (*xnnpack_flags)(TfLiteDelegate*);

// The options structure differs between versions and only grows, so a zeroed
// block larger than any of them is handed in, and GetFlags tells whether the
// flags were found where they were put.
void* covey_xnnpack(int threads, unsigned flags, covey_log* log) {
  xnnpack_create create = (xnnpack_create)dlsym(RTLD_DEFAULT, "TfLiteXNNPackDelegateCreate");
  xnnpack_delete drop = (xnnpack_delete)dlsym(RTLD_DEFAULT, "TfLiteXNNPackDelegateDelete");
  xnnpack_flags get = (xnnpack_flags)dlsym(RTLD_DEFAULT, "TfLiteXNNPackDelegateGetFlags");
  if (!create || !drop) {
    say(log, "this libtensorflowlite_c was built without it");
    return NULL;
  }
  static const int places[] = {1, 2};  // up to 2.17: threads, flags; LiteRT: threads, runtime flags, flags
  for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
    union {
      uint32_t words[64];
      void* aligned;
    } options;
    memset(&options, 0, sizeof(options));
    options.words[0] = (uint32_t)threads;
    options.words[places[i]] = flags;
    TfLiteDelegate* d = create(&options);
    if (!d) continue;
    if (!get || (get(d) & flags) == flags) return d;
    drop(d);
  }
  say(log, "it did not take its options: unknown version of the library");
  return NULL;
}

void covey_xnnpack_delete(void* delegate) {
  xnnpack_delete drop = (xnnpack_delete)dlsym(RTLD_DEFAULT, "TfLiteXNNPackDelegateDelete");
  if (drop) drop(delegate);
}

// A library is loaded for good: one that has started threads, or keeps a device
// open, must not be unmapped under them.
void* covey_load(const char* name, const char** path, covey_log* log) {
  void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  struct link_map* map;
  if (!library) {
    say(log, "%s", dlerror());
    return NULL;
  }
  *path = dlinfo(library, RTLD_DI_LINKMAP, &map) == 0 ? map->l_name : name;
  return library;
}

bool covey_has(void* library, const char* symbol) { return dlsym(library, symbol) != NULL; }

typedef TfLiteDelegate* (*plugin_create)(const char* const* keys, const char* const* values, size_t n,
                                         void (*report_error)(const char*));
typedef void (*plugin_destroy)(TfLiteDelegate*);

// The plugin ABI hands nothing through to its report function. What comes from
// another thread, or later, goes to standard error like all that libraries say.
static _Thread_local covey_log* creating;

static void report_error(const char* text) {
  if (creating)
    say(creating, "%s", text);
  else
    fprintf(stderr, "%s\n", text);
}

void* covey_plugin_create(void* library, const char** keys, const char** values, size_t n, covey_log* log) {
  plugin_create create = (plugin_create)dlsym(library, "tflite_plugin_create_delegate");
  creating = log;
  TfLiteDelegate* d = create(keys, values, n, report_error);
  creating = NULL;
  return d;
}

void covey_plugin_destroy(void* library, void* delegate) {
  plugin_destroy destroy = (plugin_destroy)dlsym(library, "tflite_plugin_destroy_delegate");
  if (destroy) destroy(delegate);
}

void* covey_gpu_create(void* library) {
  TfLiteDelegate* (*create)(const void* options) = (void*)dlsym(library, "TfLiteGpuDelegateV2Create");
  return create(NULL);  // NULL is its defaults, in every version
}

void covey_gpu_delete(void* library, void* delegate) {
  void (*drop)(TfLiteDelegate*) = (void*)dlsym(library, "TfLiteGpuDelegateV2Delete");
  if (drop) drop(delegate);
}

int covey_opencl_platforms(covey_log* log) {
  const char* path;
  void* library = covey_load("libOpenCL.so.1", &path, log);
  if (!library) library = covey_load("libOpenCL.so", &path, log);
  if (!library) return 0;
  int32_t (*platforms)(uint32_t room, void* ids, uint32_t* n) = (void*)dlsym(library, "clGetPlatformIDs");
  uint32_t n = 0;
  if (!platforms || platforms(0, NULL, &n) != 0) n = 0;
  if (n == 0) say(log, "%s has no driver behind it", path);
  return (int)n;
}

struct edgetpu_device {
  int type;
  const char* path;
};

int covey_edgetpu_devices(void* library, int* types, int room) {
  struct edgetpu_device* (*list)(size_t*) = (void*)dlsym(library, "edgetpu_list_devices");
  void (*drop)(struct edgetpu_device*) = (void*)dlsym(library, "edgetpu_free_devices");
  size_t n = 0;
  struct edgetpu_device* devices = list ? list(&n) : NULL;
  if (!devices) return 0;
  if (n > (size_t)room) n = room;
  for (size_t i = 0; i < n; i++) types[i] = devices[i].type;
  if (drop) drop(devices);
  return (int)n;
}

const char* covey_edgetpu_version(void* library) {
  const char* (*version)(void) = (void*)dlsym(library, "edgetpu_version");
  return version ? version() : NULL;
}

// count is called once for each subgraph, and adds.
static TfLiteStatus count(TfLiteContext* context, TfLiteDelegate* delegate) {
  covey_counter* c = delegate->data_;
  TfLiteIntArray* plan = NULL;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk || !plan) return kTfLiteOk;
  c->nodes = (c->nodes < 0 ? 0 : c->nodes) + plan->size;
  for (int i = 0; i < plan->size; i++) {
    TfLiteNode* node = NULL;
    TfLiteRegistration* r = NULL;
    if (context->GetNodeAndRegistration(context, plan->data[i], &node, &r) == kTfLiteOk && r &&
        r->builtin_code == kTfLiteBuiltinDelegate)
      c->delegated++;
  }
  return kTfLiteOk;
}

void covey_counter_set(covey_counter* c) {
  memset(c, 0, sizeof(*c));
  c->nodes = -1;
  c->delegate.data_ = c;
  c->delegate.Prepare = count;
  c->delegate.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
}

void covey_default_signals(void) {
  static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
  for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++) signal(crashes[i], SIG_DFL);
}
