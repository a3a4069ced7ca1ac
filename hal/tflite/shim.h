#ifndef COVEY_SHIM_H_
#define COVEY_SHIM_H_

#include <tensorflow/lite/c/c_api.h>

// What the library said, lines joined by "; ". The owner frees it, after the
// model and the options that know it.
typedef struct {
  size_t used;
  char text[2048];
} covey_log;

// go-tflite's reporter passes a va_list to asprintf; these set one that does not.
TfLiteModel* covey_model(const void* data, size_t size, covey_log*);
void covey_options_log(void* options, covey_log*);

// What a tensor is, read at once. It answers whether dims fitted.
typedef struct {
  int type, rank, dynamic;
  int dims[8];
} covey_shape;
bool covey_tensor_shape(const void* tensor, covey_shape*);

// An XNNPACK delegate, or NULL with the reason. Freed by covey_xnnpack_delete.
void* covey_xnnpack(int threads, unsigned flags, const char** why);
void covey_xnnpack_delete(void* delegate);

// A delegate that takes nothing and counts: the nodes of the execution plans of all
// subgraphs (-1 before there is any) and, among them, those that are a delegate's.
typedef struct {
  TfLiteDelegate delegate;
  int nodes, delegated;
} covey_counter;
void covey_counter_set(covey_counter*);

// Signals of a crash end the process again, instead of becoming a Go trace and
// exit status 2: the agent reads from the signal what happened.
void covey_default_signals(void);

#endif
