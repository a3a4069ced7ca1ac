// A libedgetpu that stands in for the real one: as many devices as USB and PCI
// say, and a delegate that takes edgetpu-custom-op and copies its input. A test
// defines USB, PCI and LABEL and includes this file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/lite/c/common.h"

struct edgetpu_device {
  int type;
  const char* path;
};

struct edgetpu_device* edgetpu_list_devices(size_t* n) {
  *n = USB + PCI;
  struct edgetpu_device* d = calloc(*n + 1, sizeof(*d));
  for (size_t i = 0; i < *n; i++) d[i] = (struct edgetpu_device){i < USB, i < USB ? "/sys/bus/usb/devices/2-1" : "/dev/apex_0"};
  return *n ? d : NULL;
}

void edgetpu_free_devices(struct edgetpu_device* d) { free(d); }

const char* edgetpu_version(void) { return LABEL; }

static void* init(TfLiteContext* context, const char* buffer, size_t length) {
  const TfLiteDelegateParams* p = (const void*)buffer;
  int* io = calloc(2, sizeof(int));
  io[0] = p->input_tensors->data[0], io[1] = p->output_tensors->data[0];
  return io;
}

static void release(TfLiteContext* context, void* io) { free(io); }

static TfLiteStatus ready(TfLiteContext* context, TfLiteNode* node) { return kTfLiteOk; }

static TfLiteStatus invoke(TfLiteContext* context, TfLiteNode* node) {
  const int* io = node->user_data;
  memcpy(context->tensors[io[1]].data.data, context->tensors[io[0]].data.data, context->tensors[io[1]].bytes);
  return kTfLiteOk;
}

static TfLiteStatus prepare(TfLiteContext* context, TfLiteDelegate* delegate) {
  TfLiteIntArray* plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  for (int i = 0; i < plan->size; i++) {
    TfLiteNode* node;
    TfLiteRegistration* r;
    int index = plan->data[i];
    if (context->GetNodeAndRegistration(context, index, &node, &r) != kTfLiteOk) return kTfLiteError;
    if (!r->custom_name || strcmp(r->custom_name, "edgetpu-custom-op")) continue;
    TfLiteRegistration mine = {.init = init, .free = release, .prepare = ready, .invoke = invoke,
                               .builtin_code = kTfLiteBuiltinDelegate, .custom_name = "EdgeTpuDelegateForCustomOp", .version = 1};
    TfLiteIntArray* one = calloc(1, sizeof(TfLiteIntArray) + sizeof(int));
    one->size = 1, one->data[0] = index;
    TfLiteStatus status = context->ReplaceNodeSubsetsWithDelegateKernels(context, mine, one, delegate);
    free(one);
    if (status != kTfLiteOk) return status;
    break;
  }
  return kTfLiteOk;
}

// What it was told comes back in the reason, where it opens nothing.
TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t n, void (*report_error)(const char*)) {
  char told[512] = "stand-in was told";
  for (size_t i = 0; i < n; i++) {
    size_t used = strlen(told);
    snprintf(told + used, sizeof(told) - used, " %s=%s", keys[i], values[i]);
    if (!strcmp(keys[i], "device") && !strcmp(values[i], "pci:7")) {
      report_error(told);
      return NULL;
    }
  }
  if (USB + PCI == 0) return NULL;
  TfLiteDelegate* d = calloc(1, sizeof(*d));
  d->Prepare = prepare;
  d->flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  return d;
}

void tflite_plugin_destroy_delegate(TfLiteDelegate* d) { free(d); }
