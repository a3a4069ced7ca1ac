#ifndef COVEY_ONNX_SHIM_H_
#define COVEY_ONNX_SHIM_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COVEY_RANK 8
#define COVEY_TEXT 1024

// The library. Every call that answers bool answers false with a reason in text.
typedef struct {
  void* handle;
  const void* const* api;  // the table of functions, in the order of onnxruntime_c_api.h
  const char* version;
  char text[COVEY_TEXT];
} covey_ort;

// The version of the table that is asked for.
#define COVEY_API 24

bool covey_open(covey_ort*, const char* path);
bool covey_api(covey_ort*);
// Names of the providers compiled in, joined by commas, into text.
bool covey_providers(covey_ort*);
bool covey_fix_dimension(covey_ort*, void* options, const char* name, int64_t size);

typedef struct {
  int kind;  // of value: 1 is a tensor
  int type;  // of its elements
  int rank;  // may be above COVEY_RANK, then dims are not filled
  int64_t dims[COVEY_RANK];
  char name[COVEY_TEXT];
} covey_value;

typedef struct {
  int64_t bytes;
  int rank;
  int64_t dims[COVEY_RANK];
} covey_result;

// One input or output of one buffer. ort is NULL for an output whose shape is known
// only after a run.
typedef struct {
  void* ort;
  void* data;
  size_t room;
  covey_result result;
} covey_tensor;

typedef struct {
  covey_ort* ort;
  void* session;
  size_t inputs, outputs, buffers;
  char** names;           // of the inputs, then of the outputs
  covey_tensor* tensors;  // a row a buffer: inputs, then outputs
  void** given;           // what a run takes and gives, as tensors
  int64_t ns;             // of the last run
  char text[COVEY_TEXT];
} covey_model;

bool covey_count(covey_ort*, void* session, size_t* inputs, size_t* outputs);
bool covey_describe(covey_ort*, void* session, bool output, size_t i, covey_value*);
// How many operators the session has after optimisation, and how many of them are not
// the CPU's.
bool covey_assigned(covey_ort*, void* session, size_t* all, size_t* taken);

covey_model* covey_model_new(covey_ort*, void* session, size_t inputs, size_t outputs);
bool covey_name(covey_model*, size_t i, const char* name);
bool covey_buffers(covey_model*, size_t n);
// Puts a tensor on memory. An output of type 0 is only copied there.
bool covey_place(covey_model*, size_t buffer, size_t i, void* data, size_t bytes, int type, int rank, const int64_t* dims);
bool covey_run(covey_model*, size_t buffer);
void covey_model_free(covey_model*);

// CUDA devices by the driver's library, -1 where there is none. name has the name of
// device i.
int covey_cuda(int i, char* name, size_t room, int* driver);
// The version of TensorRT's library that can be loaded, 0 for none.
int covey_tensorrt(void);

// Signals of a crash end the process again, instead of becoming a Go trace and
// exit status 2: the agent reads from the signal what happened.
void covey_onnx_default_signals(void);

#endif
