//go:build cgo

#define _GNU_SOURCE
#include "shim.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static void report(void* user, const char* format, va_list args) {
  covey_log* log = user;
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

typedef TfLiteDelegate* (*xnnpack_create)(const void* options);
typedef void (*xnnpack_delete)(TfLiteDelegate*);
typedef uint32_t (*xnnpack_flags)(TfLiteDelegate*);

// The options structure differs between versions and only grows, so a zeroed
// block larger than any of them is handed in, and GetFlags tells whether the
// flags were found where they were put.
void* covey_xnnpack(int threads, unsigned flags, const char** why) {
  xnnpack_create create = (xnnpack_create)dlsym(RTLD_DEFAULT, "TfLiteXNNPackDelegateCreate");
  xnnpack_delete drop = (xnnpack_delete)dlsym(RTLD_DEFAULT, "TfLiteXNNPackDelegateDelete");
  xnnpack_flags get = (xnnpack_flags)dlsym(RTLD_DEFAULT, "TfLiteXNNPackDelegateGetFlags");
  if (!create || !drop) {
    *why = "this libtensorflowlite_c was built without XNNPACK";
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
  *why = "the XNNPACK delegate did not take its options: unknown version of the library";
  return NULL;
}

void covey_xnnpack_delete(void* delegate) {
  xnnpack_delete drop = (xnnpack_delete)dlsym(RTLD_DEFAULT, "TfLiteXNNPackDelegateDelete");
  if (drop) drop(delegate);
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
