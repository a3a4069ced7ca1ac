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

// One run and how long it took, in one crossing from Go.
typedef struct {
  int64_t ns;
  int status;
} covey_ran;
covey_ran covey_invoke(void* interpreter);

// The delegates. What creates one answers NULL where there is none, and the log
// has the reason if one was given; the same call's partner frees it, after the
// interpreter. Calls with a library need a symbol that covey_has found in it.
void* covey_xnnpack(int threads, unsigned flags, covey_log*);
void covey_xnnpack_delete(void* delegate);

// Loads a library by path or by the loader's search; path is where it was found.
void* covey_load(const char* name, const char** path, covey_log*);
bool covey_has(void* library, const char* symbol);

void* covey_plugin_create(void* library, const char** keys, const char** values, size_t n, covey_log*);
void covey_plugin_destroy(void* library, void* delegate);
void* covey_gpu_create(void* library);
void covey_gpu_delete(void* library, void* delegate);

int covey_opencl_platforms(covey_log*);
// Types of the devices plugged in, 0 is PCIe, 1 is USB; answers how many.
int covey_edgetpu_devices(void* library, int* types, int room);
const char* covey_edgetpu_version(void* library);  // may be NULL

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
