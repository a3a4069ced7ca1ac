// The bare loop that Covey is measured against: the TFLite C library, XNNPACK
// with both quantised flags, one raw picture in memory, and nothing else.
//
//   bare MODEL THREADS FRAMES [PICTURE WIDTH HEIGHT]
//   bare MODEL THREADS FRAMES PICTURE.jpg
//   bare MODEL THREADS FRAMES woken
//
// PICTURE is raw YUV 4:2:0, planes Y, U, V, full range. It is scaled and converted
// into the input tensor for every frame, as a camera's picture would be. A JPEG
// (4:2:0) is also decoded for every frame, by libturbojpeg into planes, which is the
// least work that there is; one frame after the other, as a simple loop does. Without
// a picture the input is a fixed pattern of bytes, written once. "woken" lets another
// process wake the loop for each frame, through a socket: what a model pays for
// living in a process of its own, whose caches are cold when its turn comes,
// without any of our code; "wake" is how long that takes. The first result is printed as soon as it is there,
// so that whoever started the program can time it from the outside:
//
//   first <best output element>
//   {"invoke_p50_us":…,"invoke_p99_us":…,"fps":…,"rss_kb":…,"best":…}
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

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

// Where an output column or row lies in a plane: between pixels a and b, and how
// far towards b, of 2048. Made once, as any program would.
typedef struct {
	int a, b, weight;
} Tap;

static Tap *taps(int in, int out) {
	Tap *t = malloc(sizeof(Tap) * out);
	for (int i = 0; i < out; i++) {
		double at = (i + 0.5) * in / out - 0.5;
		if (at < 0) at = 0;
		if (at > in - 1) at = in - 1;
		int a = (int)at;
		t[i] = (Tap){a, a + 1 < in ? a + 1 : in - 1, (int)((at - a) * 2048 + 0.5)};
	}
	return t;
}

// A picture, and where the tensor's pixels lie in it.
typedef struct {
	const uint8_t *y, *u, *v;
	int stride, half; // bytes from row to row of Y, and of U and V
	Tap *yx, *yy, *cx, *cy;
} Picture;

static inline int mix(const uint8_t *top, const uint8_t *low, Tap x, int wy) {
	int t = (top[x.a] << 11) + (top[x.b] - top[x.a]) * x.weight;
	int l = (low[x.a] << 11) + (low[x.b] - low[x.a]) * x.weight;
	return (int)(((int64_t)t * (2048 - wy) + (int64_t)l * wy + (1 << 21)) >> 22);
}

static inline uint8_t clamp(int v) { return v < 0 ? 0 : v > 255 ? 255 : v; }

// fill scales the picture into a width x height tensor of RGB, bilinear.
static void fill(uint8_t *out, int width, int height, const Picture *p) {
	for (int row = 0; row < height; row++) {
		Tap ty = p->yy[row], tc = p->cy[row];
		const uint8_t *y0 = p->y + ty.a * p->stride, *y1 = p->y + ty.b * p->stride;
		const uint8_t *u0 = p->u + tc.a * p->half, *u1 = p->u + tc.b * p->half;
		const uint8_t *v0 = p->v + tc.a * p->half, *v1 = p->v + tc.b * p->half;
		for (int x = 0; x < width; x++, out += 3) {
			int y = mix(y0, y1, p->yx[x], ty.weight) * 0x10101;
			int u = mix(u0, u1, p->cx[x], tc.weight) - 128;
			int v = mix(v0, v1, p->cx[x], tc.weight) - 128;
			out[0] = clamp((y + 91881 * v) >> 16);
			out[1] = clamp((y - 22554 * u - 46802 * v) >> 16);
			out[2] = clamp((y + 116130 * u) >> 16);
		}
	}
}

static Picture scaled(const uint8_t *y, const uint8_t *u, const uint8_t *v, int stride, int half, int pw, int ph, int width, int height) {
	return (Picture){y, u, v, stride, half, taps(pw, width), taps(ph, height), taps((pw + 1) / 2, width), taps((ph + 1) / 2, height)};
}

static Picture picture_of(const char *path, int pw, int ph, int width, int height) {
	int cw = (pw + 1) / 2, ch = (ph + 1) / 2;
	size_t luma = (size_t)pw * ph, chroma = (size_t)cw * ch;
	const uint8_t *bytes = read_picture(path, luma + 2 * chroma);
	return scaled(bytes, bytes + luma, bytes + luma + chroma, pw, cw, pw, ph, width, height);
}

// The part of TurboJPEG that is used, written down here for the same reason.
typedef struct {
	void *handle;
	const uint8_t *file;
	unsigned long size;
	int width, height, strides[3];
	uint8_t *planes[3];
	int (*decode)(void *, const uint8_t *, unsigned long, uint8_t **, int, int *, int, int);
} Jpeg;

static void *symbol(void *lib, const char *name) {
	void *p = dlsym(lib, name);
	if (!p) die(name);
	return p;
}

static Jpeg open_jpeg(const char *path) {
	void *lib = dlopen("libturbojpeg.so.0", RTLD_NOW);
	if (!lib) die("no libturbojpeg.so.0: sudo apt-get install libturbojpeg0");
	void *(*init)(void) = symbol(lib, "tjInitDecompress");
	int (*header)(void *, const uint8_t *, unsigned long, int *, int *, int *, int *) = symbol(lib, "tjDecompressHeader3");
	Jpeg j = {.handle = init(), .decode = symbol(lib, "tjDecompressToYUVPlanes")};
	FILE *f = fopen(path, "rb");
	if (!f || fseek(f, 0, SEEK_END) != 0 || (long)(j.size = ftell(f)) <= 0) die("picture is missing");
	fclose(f);
	j.file = read_picture(path, j.size);
	int sampling, colours;
	if (header(j.handle, j.file, j.size, &j.width, &j.height, &sampling, &colours) != 0 || sampling != 2) die("not a JPEG of 4:2:0");
	int w = (j.width + 1) & ~1, h = (j.height + 1) & ~1;
	for (int i = 0; i < 3; i++) {
		j.strides[i] = i ? w / 2 : w;
		j.planes[i] = malloc((size_t)j.strides[i] * (i ? h / 2 : h));
	}
	return j;
}

static void decode(Jpeg *j) {
	if (j->decode(j->handle, j->file, j->size, j->planes, j->width, j->strides, j->height, 0) != 0) die("broken JPEG");
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

// waker starts a process that answers each byte with one, and returns the socket to it.
static int waker(void) {
	int pair[2];
	char c;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0) die("socketpair");
	pid_t pid = fork();
	if (pid < 0) die("fork");
	if (pid > 0) {
		close(pair[1]);
		return pair[0];
	}
	close(pair[0]);
	while (read(pair[1], &c, 1) == 1 && write(pair[1], &c, 1) == 1) {
	}
	_exit(0);
}

int main(int argc, char **argv) {
	if (argc != 4 && argc != 5 && argc != 7) die("usage: bare MODEL THREADS FRAMES [PICTURE WIDTH HEIGHT | PICTURE.jpg | woken]");
	int wake = argc == 5 && strcmp(argv[4], "woken") == 0 ? waker() : -1;
	int threads = atoi(argv[2]), frames = atoi(argv[3]);
	if (threads < 1 || frames < 1) die("THREADS and FRAMES must be at least 1");
	TfLiteInterpreter *it = open_model(argv[1], threads);
	TfLiteTensor *input = TfLiteInterpreterGetInputTensor(it, 0);
	const TfLiteTensor *output = TfLiteInterpreterGetOutputTensor(it, 0);
	uint8_t *in = TfLiteTensorData(input);
	size_t size = TfLiteTensorByteSize(input);

	Picture picture = {0};
	Jpeg jpeg = {0};
	int height = 0, width = 0;
	if (argc > 4 && wake < 0) {
		height = TfLiteTensorDim(input, 1), width = TfLiteTensorDim(input, 2);
		if ((size_t)height * width * 3 != size) die("the model does not take an RGB picture of bytes");
	}
	if (argc == 7) {
		int pw = atoi(argv[5]), ph = atoi(argv[6]);
		if (pw < 2 || ph < 2) die("WIDTH and HEIGHT must be at least 2");
		picture = picture_of(argv[4], pw, ph, width, height);
	} else if (argc == 5 && wake < 0) {
		jpeg = open_jpeg(argv[4]);
		picture = scaled(jpeg.planes[0], jpeg.planes[1], jpeg.planes[2], jpeg.strides[0], jpeg.strides[1], jpeg.width, jpeg.height, width, height);
	} else {
		for (size_t i = 0; i < size; i++) in[i] = (uint8_t)(i * 31);
	}

	int64_t *took = malloc(sizeof(int64_t) * frames), *woke = calloc(frames, sizeof(int64_t)), began = 0;
	int top = 0;
	// The first frame is not counted: it pays for what is made once.
	for (int i = -1; i < frames; i++) {
		if (i == 0) began = now_ns();
		if (jpeg.file) decode(&jpeg);
		if (picture.y) fill(in, width, height, &picture);
		char c = 0;
		int64_t asked = now_ns();
		if (wake >= 0 && (write(wake, &c, 1) != 1 || read(wake, &c, 1) != 1)) die("waker is gone");
		int64_t start = now_ns();
		if (i >= 0) woke[i] = start - asked;
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
	qsort(woke, frames, sizeof *woke, by_value);
	printf("{\"invoke_p50_us\":%.2f,\"invoke_p99_us\":%.2f,\"wake_p50_us\":%.2f,\"fps\":%.2f,\"rss_kb\":%ld,\"best\":%d}\n",
		took[frames / 2] / 1e3, took[(int)(frames * 0.99)] / 1e3, woke[frames / 2] / 1e3, frames / seconds, rss_kb(), top);
	return 0;
}
