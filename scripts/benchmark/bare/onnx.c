// The bare loop for ONNX Runtime: its C API on one model, with tensors that are made
// once, and nothing else.
//
//   bare-onnx LIBRARY MODEL THREADS FRAMES
//
// The inputs are of float32 with fixed shapes, and hold 0.5. It prints
//
//   {"invoke_p50_us":…}
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "onnxruntime_c_api.h"

static const OrtApi *api;

static void must(OrtStatus *s) {
	if (!s) return;
	fprintf(stderr, "bare-onnx: %s\n", api->GetErrorMessage(s));
	exit(1);
}

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int less(const void *a, const void *b) {
	double d = *(const double *)a - *(const double *)b;
	return d < 0 ? -1 : d > 0;
}

enum { MOST = 16 };

// values makes a tensor for each input or output.
static size_t values(OrtSession *session, int output, char **names, OrtValue **all) {
	OrtAllocator *allocator;
	OrtMemoryInfo *memory;
	size_t n;
	must(api->GetAllocatorWithDefaultOptions(&allocator));
	must(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
	must((output ? api->SessionGetOutputCount : api->SessionGetInputCount)(session, &n));
	if (n > MOST) exit(1);
	for (size_t i = 0; i < n; i++) {
		OrtTypeInfo *type;
		const OrtTensorTypeAndShapeInfo *shape;
		int64_t dims[8];
		size_t rank, count = 1;
		must((output ? api->SessionGetOutputName : api->SessionGetInputName)(session, i, allocator, &names[i]));
		must((output ? api->SessionGetOutputTypeInfo : api->SessionGetInputTypeInfo)(session, i, &type));
		must(api->CastTypeInfoToTensorInfo(type, &shape));
		must(api->GetDimensionsCount(shape, &rank));
		must(api->GetDimensions(shape, dims, rank));
		for (size_t j = 0; j < rank; j++) count *= (size_t)dims[j];
		float *data = aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
		for (size_t j = 0; j < count; j++) data[j] = 0.5f;
		must(api->CreateTensorWithDataAsOrtValue(memory, data, count * sizeof(float), dims, rank,
		                                         ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &all[i]));
	}
	return n;
}

int main(int argc, char **argv) {
	if (argc != 5) return 2;
	void *library = dlopen(argv[1], RTLD_NOW);
	if (!library) {
		fprintf(stderr, "bare-onnx: %s\n", dlerror());
		return 1;
	}
	const OrtApiBase *(*base)(void) = (const OrtApiBase *(*)(void))dlsym(library, "OrtGetApiBase");
	api = base()->GetApi(ORT_API_VERSION);
	OrtEnv *env;
	OrtSessionOptions *options;
	OrtSession *session;
	must(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "bare", &env));
	must(api->CreateSessionOptions(&options));
	must(api->SetIntraOpNumThreads(options, atoi(argv[3])));
	must(api->SetSessionGraphOptimizationLevel(options, ORT_ENABLE_ALL));
	must(api->CreateSession(env, argv[2], options, &session));
	char *in[MOST], *out[MOST];
	OrtValue *given[MOST], *made[MOST];
	size_t inputs = values(session, 0, in, given), outputs = values(session, 1, out, made);
	int frames = atoi(argv[4]);
	double *took = malloc(sizeof(double) * (size_t)frames);
	for (int i = -1; i < frames; i++) {
		double start = now();
		must(api->Run(session, NULL, (const char *const *)in, (const OrtValue *const *)given, inputs,
		              (const char *const *)out, outputs, made));
		if (i >= 0) took[i] = now() - start;
	}
	qsort(took, (size_t)frames, sizeof(double), less);
	printf("{\"invoke_p50_us\":%.3f}\n", took[frames / 2]);
	return 0;
}
