// The bare loop that Covey is measured against: the TFLite C library, XNNPACK
// with both quantised flags, one raw picture in memory, and nothing else.
//
//   bare MODEL THREADS FRAMES [PICTURE WIDTH HEIGHT]
//
// PICTURE is WIDTH x HEIGHT x 3 bytes of RGB. It is scaled into the input tensor
// for every frame, as a camera's picture would be. Without it the input is a
// fixed pattern of bytes, written once. The first result is printed as soon as
// it is there, so that whoever started the program can time it from the outside:
//
//   first <best output element>
//   {"invoke_p50_us":…,"invoke_p99_us":…,"fps":…,"rss_kb":…,"best":…}
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

// The part of the C API that is used, written down here so that the program
// compiles without TensorFlow's headers.
typedef struct TfLiteModel TfLiteModel;
typedef struct TfLiteInterpreter TfLiteInterpreter;
typedef struct TfLiteInterpreterOptions TfLiteInterpreterOptions;
typedef struct TfLiteTensor TfLiteTensor;
typedef struct TfLiteDelegate TfLiteDelegate;

// Only the head of the delegate's options is known here; the room behind it is
// larger than any version of the library writes.
typedef struct {
	int32_t num_threads;
	uint32_t flags;
	char more[248];
} XNNPackOptions;
enum { QS8 = 1, QU8 = 2 };

extern TfLiteModel *TfLiteModelCreateFromFile(const char *path);
extern TfLiteInterpreterOptions *TfLiteInterpreterOptionsCreate(void);
extern void TfLiteInterpreterOptionsSetNumThreads(TfLiteInterpreterOptions *, int32_t);
extern void TfLiteInterpreterOptionsAddDelegate(TfLiteInterpreterOptions *, TfLiteDelegate *);
extern TfLiteInterpreter *TfLiteInterpreterCreate(const TfLiteModel *, const TfLiteInterpreterOptions *);
extern int TfLiteInterpreterAllocateTensors(TfLiteInterpreter *);
extern TfLiteTensor *TfLiteInterpreterGetInputTensor(const TfLiteInterpreter *, int32_t);
extern const TfLiteTensor *TfLiteInterpreterGetOutputTensor(const TfLiteInterpreter *, int32_t);
extern int TfLiteInterpreterInvoke(TfLiteInterpreter *);
extern void *TfLiteTensorData(const TfLiteTensor *);
extern size_t TfLiteTensorByteSize(const TfLiteTensor *);
extern int32_t TfLiteTensorDim(const TfLiteTensor *, int32_t);
extern XNNPackOptions TfLiteXNNPackDelegateOptionsDefault(void);
extern TfLiteDelegate *TfLiteXNNPackDelegateCreate(const XNNPackOptions *);

static void die(const char *what) {
	fprintf(stderr, "bare: %s\n", what);
	exit(1);
}

static int64_t now_ns(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static TfLiteInterpreter *open_model(const char *path, int threads) {
	TfLiteModel *model = TfLiteModelCreateFromFile(path);
	if (!model) die("not a model");
	XNNPackOptions options = TfLiteXNNPackDelegateOptionsDefault();
	options.num_threads = threads;
	options.flags |= QS8 | QU8;
	TfLiteInterpreterOptions *interpreter = TfLiteInterpreterOptionsCreate();
	TfLiteInterpreterOptionsSetNumThreads(interpreter, threads);
	TfLiteInterpreterOptionsAddDelegate(interpreter, TfLiteXNNPackDelegateCreate(&options));
	TfLiteInterpreter *it = TfLiteInterpreterCreate(model, interpreter);
	if (!it) die("XNNPACK refused the model");
	if (TfLiteInterpreterAllocateTensors(it) != 0) die("tensors could not be allocated");
	return it;
}

static uint8_t *read_picture(const char *path, size_t want) {
	uint8_t *p = malloc(want);
	FILE *f = fopen(path, "rb");
	if (!f || !p || fread(p, 1, want, f) != want) die("picture is missing or short");
	fclose(f);
	return p;
}

// Where each output column lies in the picture: left pixel and 8-bit weight of
// the right one. Made once, as any program would.
typedef struct {
	int at;
	int weight;
} Tap;

static Tap *taps(int in, int out, int step) {
	Tap *t = malloc(sizeof(Tap) * out);
	for (int i = 0; i < out; i++) {
		double x = (i + 0.5) * in / out - 0.5;
		if (x < 0) x = 0;
		int left = (int)x;
		int weight = (int)((x - left) * 256);
		if (left > in - 2) left = in - 2, weight = 256;
		t[i] = (Tap){left * step, weight};
	}
	return t;
}

// fill scales the picture into a width x height tensor, bilinear.
static void fill(uint8_t *out, int width, int height, const Tap *xs, const Tap *ys, const uint8_t *picture, int stride) {
	for (int y = 0; y < height; y++) {
		const uint8_t *row = picture + ys[y].at;
		const uint8_t *next = row + stride;
		int wy = ys[y].weight;
		for (int x = 0; x < width; x++) {
			const uint8_t *a = row + xs[x].at, *b = next + xs[x].at;
			int wx = xs[x].weight;
			for (int c = 0; c < 3; c++) {
				int top = a[c] * (256 - wx) + a[c + 3] * wx;
				int low = b[c] * (256 - wx) + b[c + 3] * wx;
				*out++ = (uint8_t)((top * (256 - wy) + low * wy + 32768) >> 16);
			}
		}
	}
}

static int best(const uint8_t *p, size_t n) {
	size_t at = 0;
	for (size_t i = 1; i < n; i++)
		if (p[i] > p[at]) at = i;
	return (int)at;
}

static long rss_kb(void) {
	char line[128];
	long kb = 0;
	FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "VmRSS: %ld", &kb) == 1) break;
	if (f) fclose(f);
	return kb;
}

static int by_value(const void *a, const void *b) {
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv) {
	if (argc != 4 && argc != 7) die("usage: bare MODEL THREADS FRAMES [PICTURE WIDTH HEIGHT]");
	int threads = atoi(argv[2]), frames = atoi(argv[3]);
	if (threads < 1 || frames < 1) die("THREADS and FRAMES must be at least 1");
	TfLiteInterpreter *it = open_model(argv[1], threads);
	TfLiteTensor *input = TfLiteInterpreterGetInputTensor(it, 0);
	const TfLiteTensor *output = TfLiteInterpreterGetOutputTensor(it, 0);
	uint8_t *in = TfLiteTensorData(input);
	size_t size = TfLiteTensorByteSize(input);

	uint8_t *picture = NULL;
	Tap *xs = NULL, *ys = NULL;
	int height = 0, width = 0, stride = 0;
	if (argc == 7) {
		int pw = atoi(argv[5]), ph = atoi(argv[6]);
		if (pw < 2 || ph < 2) die("WIDTH and HEIGHT must be at least 2");
		picture = read_picture(argv[4], (size_t)pw * ph * 3);
		height = TfLiteTensorDim(input, 1), width = TfLiteTensorDim(input, 2);
		if ((size_t)height * width * 3 != size) die("the model does not take an RGB picture of bytes");
		xs = taps(pw, width, 3);
		stride = pw * 3;
		ys = taps(ph, height, stride);
	} else {
		for (size_t i = 0; i < size; i++) in[i] = (uint8_t)(i * 31);
	}

	int64_t *took = malloc(sizeof(int64_t) * frames), began = 0;
	int top = 0;
	// The first frame is not counted: it pays for what is made once.
	for (int i = -1; i < frames; i++) {
		if (i == 0) began = now_ns();
		if (picture) fill(in, width, height, xs, ys, picture, stride);
		int64_t start = now_ns();
		if (TfLiteInterpreterInvoke(it) != 0) die("invoke");
		if (i >= 0) took[i] = now_ns() - start;
		top = best(TfLiteTensorData(output), TfLiteTensorByteSize(output));
		if (i < 0) {
			printf("first %d\n", top);
			fflush(stdout);
		}
	}
	double seconds = (now_ns() - began) / 1e9;
	qsort(took, frames, sizeof *took, by_value);
	printf("{\"invoke_p50_us\":%.2f,\"invoke_p99_us\":%.2f,\"fps\":%.2f,\"rss_kb\":%ld,\"best\":%d}\n",
		took[frames / 2] / 1e3, took[(int)(frames * 0.99)] / 1e3, frames / seconds, rss_kb(), top);
	return 0;
}
