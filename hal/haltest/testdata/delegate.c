// A TFLite delegate that stands in for a driver: it takes float32 additions and
// really computes them, or goes wrong in the way that its option "mode" says.
// delegate.go lists the options. It needs no library but libc.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tensorflow/lite/c/common.h"

#ifndef DEFAULT_MODE
#define DEFAULT_MODE ""
#endif

enum { add = 0, no_node = -1 };  // builtin code of ADD; a tensor left out

typedef struct {
  TfLiteDelegate delegate;
  char mode[32];
  long after;  // runs that go well before the mode begins
  long delay;  // of every run, microseconds
} standin;

typedef struct {
  int x, y, z;  // tensors
} sum;

typedef struct {
  standin* owner;
  long runs;
  int n;
  sum sums[];
} kernel;

static void crash(void) { *(volatile int*)8 = 1; }

static int is(const standin* s, const char* mode) { return strcmp(s->mode, mode) == 0; }

static void* kernel_init(TfLiteContext* context, const char* buffer, size_t length) {
  const TfLiteDelegateParams* p = (const void*)buffer;
  int n = p->nodes_to_replace->size;
  kernel* k = calloc(1, sizeof(kernel) + n * sizeof(sum));
  k->owner = (standin*)p->delegate;
  k->n = n;
  for (int i = 0; i < n; i++) {
    TfLiteNode* node;
    TfLiteRegistration* r;
    if (context->GetNodeAndRegistration(context, p->nodes_to_replace->data[i], &node, &r) != kTfLiteOk) abort();
    k->sums[i] = (sum){node->inputs->data[0], node->inputs->data[1], node->outputs->data[0]};
  }
  return k;
}

static void kernel_free(TfLiteContext* context, void* k) { free(k); }

static TfLiteStatus kernel_prepare(TfLiteContext* context, TfLiteNode* node) {
  kernel* k = node->user_data;
  if (is(k->owner, "crash-allocate")) crash();
  if (is(k->owner, "fail-allocate")) {
    context->ReportError(context, "stand-in: no room for %d operators", k->n);
    return kTfLiteError;
  }
  return kTfLiteOk;
}

static TfLiteStatus kernel_invoke(TfLiteContext* context, TfLiteNode* node) {
  kernel* k = node->user_data;
  const standin* s = k->owner;
  int bad = k->runs++ >= s->after;
  if (s->delay > 0) {
    struct timespec t = {s->delay / 1000000, s->delay % 1000000 * 1000};
    nanosleep(&t, NULL);
  }
  if (bad && is(s, "crash-invoke")) crash();
  while (bad && is(s, "hang-invoke")) pause();
  if (bad && is(s, "fail-invoke")) {
    context->ReportError(context, "stand-in: the device said no in run %ld", k->runs);
    return kTfLiteError;
  }
  TfLiteTensor* t = context->tensors;
  for (const sum* a = k->sums; a < k->sums + k->n; a++) {
    const float *x = t[a->x].data.data, *y = t[a->y].data.data;
    float* z = t[a->z].data.data;
    for (size_t i = 0; i < t[a->z].bytes / sizeof(float); i++) z[i] = x[i] + y[i] + (bad && is(s, "wrong"));
  }
  return kTfLiteOk;
}

// takes says whether a node is an addition of two float32 tensors of one size.
static int takes(TfLiteContext* context, const TfLiteNode* node, const TfLiteRegistration* r) {
  if (r->builtin_code != add || r->custom_name || node->inputs->size != 2 || node->outputs->size != 1) return 0;
  for (int i = 0; i < 2; i++)
    if (node->inputs->data[i] == no_node || context->tensors[node->inputs->data[i]].type != kTfLiteFloat32) return 0;
  return context->tensors[node->inputs->data[0]].bytes == context->tensors[node->inputs->data[1]].bytes;
}

static TfLiteStatus prepare(TfLiteContext* context, TfLiteDelegate* delegate) {
  standin* s = (standin*)delegate;
  if (is(s, "crash-prepare")) crash();
  while (is(s, "hang-prepare")) pause();
  if (is(s, "fail-prepare")) {
    context->ReportError(context, "stand-in: firmware is too old");
    return kTfLiteError;
  }
  TfLiteIntArray* plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  TfLiteIntArray* nodes = calloc(1, sizeof(TfLiteIntArray) + sizeof(int) * plan->size);
  for (int i = 0; i < plan->size && !is(s, "refuse"); i++) {
    TfLiteNode* node;
    TfLiteRegistration* r;
    if (context->GetNodeAndRegistration(context, plan->data[i], &node, &r) == kTfLiteOk && takes(context, node, r))
      nodes->data[nodes->size++] = plan->data[i];
  }
  TfLiteRegistration mine = {.init = kernel_init, .free = kernel_free, .prepare = kernel_prepare, .invoke = kernel_invoke,
                             .builtin_code = kTfLiteBuiltinDelegate, .custom_name = "StandIn", .version = 1};
  TfLiteStatus status = nodes->size ? context->ReplaceNodeSubsetsWithDelegateKernels(context, mine, nodes, delegate) : kTfLiteOk;
  free(nodes);
  return status;
}

TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys, const char* const* values, size_t n,
                                              void (*report_error)(const char*)) {
  standin* s = calloc(1, sizeof(*s));
  s->delegate.Prepare = prepare;
  strcpy(s->mode, DEFAULT_MODE);
  for (size_t i = 0; i < n; i++) {
    if (!strcmp(keys[i], "mode")) {
      snprintf(s->mode, sizeof(s->mode), "%s", values[i]);
    } else if (!strcmp(keys[i], "after")) {
      s->after = atol(values[i]);
    } else if (!strcmp(keys[i], "delay")) {
      s->delay = atol(values[i]);
    } else if (!strcmp(keys[i], "dynamic")) {
      s->delegate.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
    } else {
      char text[128];
      snprintf(text, sizeof(text), "stand-in: no option %.60s", keys[i]);
      report_error(text);
      free(s);
      return NULL;
    }
  }
  if (is(s, "crash-create")) crash();
  while (is(s, "hang-create")) pause();
  if (is(s, "null")) {
    report_error("stand-in: no device found");
    free(s);
    return NULL;
  }
  return &s->delegate;
}

void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) { free(delegate); }
