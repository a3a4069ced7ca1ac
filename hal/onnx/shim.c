//go:build cgo

#define _GNU_SOURCE
#include "shim.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// The functions of the table that are used here: place and type. The table only
// grows, so a place is for ever; a test compares them with the binding's header.
typedef void Status;
#define FUNCTIONS(F)                                                                                          \
  F(2, GetErrorMessage, const char*, (const Status*))                                                         \
  F(9, Run, Status*, (void*, const void*, const char* const*, void* const*, size_t, const char* const*, size_t, void**)) \
  F(30, SessionGetInputCount, Status*, (const void*, size_t*))                                                \
  F(31, SessionGetOutputCount, Status*, (const void*, size_t*))                                               \
  F(33, SessionGetInputTypeInfo, Status*, (const void*, size_t, void**))                                      \
  F(34, SessionGetOutputTypeInfo, Status*, (const void*, size_t, void**))                                     \
  F(36, SessionGetInputName, Status*, (const void*, size_t, void*, char**))                                   \
  F(37, SessionGetOutputName, Status*, (const void*, size_t, void*, char**))                                  \
  F(49, CreateTensorWithDataAsOrtValue, Status*, (const void*, void*, size_t, const int64_t*, size_t, int, void**)) \
  F(51, GetTensorMutableData, Status*, (void*, void**))                                                       \
  F(55, CastTypeInfoToTensorInfo, Status*, (const void*, const void**))                                       \
  F(56, GetOnnxTypeFromTypeInfo, Status*, (const void*, int*))                                                \
  F(60, GetTensorElementType, Status*, (const void*, int*))                                                   \
  F(61, GetDimensionsCount, Status*, (const void*, size_t*))                                                  \
  F(62, GetDimensions, Status*, (const void*, int64_t*, size_t))                                              \
  F(64, GetTensorShapeElementCount, Status*, (const void*, size_t*))                                          \
  F(65, GetTensorTypeAndShape, Status*, (const void*, void**))                                                \
  F(69, CreateCpuMemoryInfo, Status*, (int, int, void**))                                                     \
  F(76, AllocatorFree, Status*, (void*, void*))                                                               \
  F(78, GetAllocatorWithDefaultOptions, Status*, (void**))                                                    \
  F(93, ReleaseStatus, void, (Status*))                                                                       \
  F(94, ReleaseMemoryInfo, void, (void*))                                                                     \
  F(96, ReleaseValue, void, (void*))                                                                          \
  F(98, ReleaseTypeInfo, void, (void*))                                                                       \
  F(99, ReleaseTensorTypeAndShapeInfo, void, (void*))                                                         \
  F(124, AddFreeDimensionOverrideByName, Status*, (void*, const char*, int64_t))                              \
  F(125, GetAvailableProviders, Status*, (char***, int*))                                                     \
  F(126, ReleaseAvailableProviders, Status*, (char**, int))                                                   \
  F(407, Session_GetEpGraphAssignmentInfo, Status*, (const void*, const void* const**, size_t*))              \
  F(408, EpAssignedSubgraph_GetEpName, Status*, (const void*, const char**))                                  \
  F(409, EpAssignedSubgraph_GetNodes, Status*, (const void*, const void* const**, size_t*))

#define DECLARE(place, name, result, arguments) \
  typedef result(*name##_f) arguments;          \
  enum { at_##name = place };
FUNCTIONS(DECLARE)
#define CALL(o, name) ((name##_f)(o)->api[at_##name])

static bool no(char* text, const char* why) {
  snprintf(text, COVEY_TEXT, "%s", why ? why : "no reason given");
  return false;
}

// failed takes a status: true with its text, when there is one.
static bool failed(const covey_ort* o, char* text, Status* s) {
  if (!s) return false;
  no(text, CALL(o, GetErrorMessage)(s));
  CALL(o, ReleaseStatus)(s);
  return true;
}

typedef struct {
  const void* (*GetApi)(uint32_t);
  const char* (*GetVersionString)(void);
} base;

bool covey_open(covey_ort* o, const char* path) {
  o->handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
  if (!o->handle) return no(o->text, dlerror());
  const base* (*get)(void) = (const base* (*)(void))dlsym(o->handle, "OrtGetApiBase");
  if (!get || !get()) return no(o->text, "it has no OrtGetApiBase: it is not ONNX Runtime, or a build for Python only");
  o->version = get()->GetVersionString();
  return true;
}

bool covey_api(covey_ort* o) {
  const base* (*get)(void) = (const base* (*)(void))dlsym(o->handle, "OrtGetApiBase");
  o->api = get()->GetApi(COVEY_API);
  return o->api || no(o->text, "it does not have version 24 of the C API");
}

bool covey_providers(covey_ort* o) {
  char** names = NULL;
  int n = 0;
  if (failed(o, o->text, CALL(o, GetAvailableProviders)(&names, &n))) return false;
  size_t used = 0;
  o->text[0] = 0;
  for (int i = 0; i < n && used < COVEY_TEXT; i++)
    used += snprintf(o->text + used, COVEY_TEXT - used, "%s%s", i ? "," : "", names[i]);
  Status* s = CALL(o, ReleaseAvailableProviders)(names, n);
  if (s) CALL(o, ReleaseStatus)(s);
  return true;
}

bool covey_fix_dimension(covey_ort* o, void* options, const char* name, int64_t size) {
  return !failed(o, o->text, CALL(o, AddFreeDimensionOverrideByName)(options, name, size));
}

bool covey_count(covey_ort* o, void* session, size_t* inputs, size_t* outputs) {
  return !failed(o, o->text, CALL(o, SessionGetInputCount)(session, inputs)) &&
         !failed(o, o->text, CALL(o, SessionGetOutputCount)(session, outputs));
}

// shape reads type and dimensions.
static bool shape(const covey_ort* o, char* text, const void* info, int* type, int* rank, int64_t* dims) {
  size_t n = 0;
  if (failed(o, text, CALL(o, GetTensorElementType)(info, type)) || failed(o, text, CALL(o, GetDimensionsCount)(info, &n)))
    return false;
  *rank = n > 1 << 20 ? 1 << 20 : (int)n;
  return n == 0 || n > COVEY_RANK || !failed(o, text, CALL(o, GetDimensions)(info, dims, n));
}

bool covey_describe(covey_ort* o, void* session, bool output, size_t i, covey_value* v) {
  memset(v, 0, sizeof(*v));
  void *allocator = NULL, *info = NULL;
  char* name = NULL;
  if (failed(o, o->text, CALL(o, GetAllocatorWithDefaultOptions)(&allocator))) return false;
  if (failed(o, o->text, (output ? CALL(o, SessionGetOutputName) : CALL(o, SessionGetInputName))(session, i, allocator, &name)))
    return false;
  bool fits = snprintf(v->name, sizeof(v->name), "%s", name) < (int)sizeof(v->name);
  Status* s = CALL(o, AllocatorFree)(allocator, name);
  if (s) CALL(o, ReleaseStatus)(s);
  if (!fits) return no(o->text, "a name is longer than 1023 bytes");
  if (failed(o, o->text, (output ? CALL(o, SessionGetOutputTypeInfo) : CALL(o, SessionGetInputTypeInfo))(session, i, &info)))
    return false;
  const void* tensor = NULL;
  bool ok = !failed(o, o->text, CALL(o, GetOnnxTypeFromTypeInfo)(info, &v->kind)) &&
            (v->kind != 1 || (!failed(o, o->text, CALL(o, CastTypeInfoToTensorInfo)(info, &tensor)) &&
                              shape(o, o->text, tensor, &v->type, &v->rank, v->dims)));
  CALL(o, ReleaseTypeInfo)(info);
  return ok;
}

bool covey_assigned(covey_ort* o, void* session, size_t* all, size_t* taken) {
  const void* const* parts = NULL;
  size_t n = 0;
  *all = *taken = 0;
  if (failed(o, o->text, CALL(o, Session_GetEpGraphAssignmentInfo)(session, &parts, &n))) return false;
  for (size_t i = 0; i < n; i++) {
    const char* provider = NULL;
    const void* const* nodes = NULL;
    size_t count = 0;
    if (failed(o, o->text, CALL(o, EpAssignedSubgraph_GetEpName)(parts[i], &provider)) ||
        failed(o, o->text, CALL(o, EpAssignedSubgraph_GetNodes)(parts[i], &nodes, &count)))
      return false;
    *all += count;
    if (strcmp(provider, "CPUExecutionProvider")) *taken += count;
  }
  return true;
}

covey_model* covey_model_new(covey_ort* o, void* session, size_t inputs, size_t outputs) {
  covey_model* m = calloc(1, sizeof(*m));
  if (!m) return NULL;
  m->ort = o, m->session = session, m->inputs = inputs, m->outputs = outputs;
  m->names = calloc(inputs + outputs, sizeof(char*));
  m->given = calloc(inputs + outputs, sizeof(void*));
  if (m->names && m->given) return m;
  covey_model_free(m);
  return NULL;
}

bool covey_name(covey_model* m, size_t i, const char* name) {
  m->names[i] = strdup(name);
  return m->names[i] || no(m->text, "out of memory");
}

bool covey_buffers(covey_model* m, size_t n) {
  m->tensors = calloc(n * (m->inputs + m->outputs), sizeof(covey_tensor));
  m->buffers = m->tensors ? n : 0;
  return m->tensors || no(m->text, "out of memory");
}

bool covey_place(covey_model* m, size_t buffer, size_t i, void* data, size_t bytes, int type, int rank, const int64_t* dims) {
  covey_tensor* t = &m->tensors[buffer * (m->inputs + m->outputs) + i];
  t->data = data, t->room = bytes;
  if (type == 0) return true;
  void* memory = NULL;
  if (failed(m->ort, m->text, CALL(m->ort, CreateCpuMemoryInfo)(1 /* of an arena */, 0 /* default */, &memory))) return false;
  bool ok = !failed(m->ort, m->text,
                    CALL(m->ort, CreateTensorWithDataAsOrtValue)(memory, data, bytes, dims, (size_t)rank, type, &t->ort));
  CALL(m->ort, ReleaseMemoryInfo)(memory);
  t->result.bytes = (int64_t)bytes, t->result.rank = rank;
  memcpy(t->result.dims, dims, sizeof(int64_t) * (size_t)rank);
  return ok;
}

static size_t size_of(int type) {
  static const unsigned char sizes[] = {0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8, 8};
  return type > 0 && type < (int)sizeof(sizes) ? sizes[type] : 0;
}

// take copies an output that the library allocated into the memory for it.
static bool take(covey_model* m, size_t i, covey_tensor* t, void* value) {
  void *info = NULL, *data = NULL;
  int type = 0;
  size_t elements = 0;
  if (failed(m->ort, m->text, CALL(m->ort, GetTensorTypeAndShape)(value, &info))) return false;
  bool ok = shape(m->ort, m->text, info, &type, &t->result.rank, t->result.dims) &&
            !failed(m->ort, m->text, CALL(m->ort, GetTensorShapeElementCount)(info, &elements)) &&
            !failed(m->ort, m->text, CALL(m->ort, GetTensorMutableData)(value, &data));
  CALL(m->ort, ReleaseTensorTypeAndShapeInfo)(info);
  if (!ok) return false;
  if (t->result.rank > COVEY_RANK) {
    snprintf(m->text, COVEY_TEXT, "output %zu has %d dimensions, limit is %d", i, t->result.rank, COVEY_RANK);
    return false;
  }
  size_t bytes = elements * size_of(type);
  t->result.bytes = (int64_t)bytes;
  if (!t->data) return true;  // a run that only asks how large it is
  if (bytes > t->room) {
    snprintf(m->text, COVEY_TEXT, "output %zu gave %zu bytes, there is room for %zu", i, bytes, t->room);
    return false;
  }
  if (bytes) memcpy(t->data, data, bytes);
  return true;
}

bool covey_run(covey_model* m, size_t buffer) {
  size_t n = m->inputs + m->outputs;
  covey_tensor* row = &m->tensors[buffer * n];
  for (size_t i = 0; i < n; i++) m->given[i] = row[i].ort;
  void** out = m->given + m->inputs;
  struct timespec from, to;
  clock_gettime(CLOCK_MONOTONIC, &from);
  Status* s = CALL(m->ort, Run)(m->session, NULL, (const char* const*)m->names, m->given, m->inputs,
                                (const char* const*)(m->names + m->inputs), m->outputs, out);
  clock_gettime(CLOCK_MONOTONIC, &to);
  m->ns = (int64_t)(to.tv_sec - from.tv_sec) * 1000000000 + (to.tv_nsec - from.tv_nsec);
  bool ok = !failed(m->ort, m->text, s);
  for (size_t i = 0; i < m->outputs; i++) {
    if (row[m->inputs + i].ort || !out[i]) continue;
    ok = ok && take(m, i, &row[m->inputs + i], out[i]);
    CALL(m->ort, ReleaseValue)(out[i]);
  }
  return ok;
}

void covey_model_free(covey_model* m) {
  if (!m) return;
  size_t n = m->inputs + m->outputs;
  for (size_t i = 0; m->tensors && i < m->buffers * n; i++)
    if (m->tensors[i].ort) CALL(m->ort, ReleaseValue)(m->tensors[i].ort);
  for (size_t i = 0; m->names && i < n; i++) free(m->names[i]);
  free(m->names), free(m->given), free(m->tensors), free(m);
}

int covey_cuda(int i, char* name, size_t room, int* driver) {
  void* lib = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (!lib) return -1;
  int (*init)(unsigned) = (int (*)(unsigned))dlsym(lib, "cuInit");
  int (*count)(int*) = (int (*)(int*))dlsym(lib, "cuDeviceGetCount");
  int (*named)(char*, int, int) = (int (*)(char*, int, int))dlsym(lib, "cuDeviceGetName");
  int (*version)(int*) = (int (*)(int*))dlsym(lib, "cuDriverGetVersion");
  int n = 0;
  if (!init || !count || !named || !version || init(0) || count(&n) || version(driver)) return -1;
  if (i < n && named(name, (int)room, i)) return -1;
  return n;
}

int covey_tensorrt(void) {
  static const char* const names[] = {"libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8", "libnvinfer.so"};
  for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
    void* lib = dlopen(names[i], RTLD_LAZY | RTLD_LOCAL);
    int (*version)(void) = lib ? (int (*)(void))dlsym(lib, "getInferLibVersion") : NULL;
    if (version) return version();
  }
  return 0;
}

void covey_onnx_default_signals(void) {
  static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
  for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++) signal(crashes[i], SIG_DFL);
}
