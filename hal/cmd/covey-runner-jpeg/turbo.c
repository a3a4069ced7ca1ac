#include "turbo.h"

#include <dlfcn.h>

enum { LIMIT_SCANS = 32768, WARNING = 0 }; // TJFLAG_LIMITSCANS, TJERR_WARNING

const char *covey_turbo_load(covey_turbo *t) {
	void *lib = dlopen("libturbojpeg.so.0", RTLD_NOW | RTLD_LOCAL);
	if (!lib) return dlerror();
	t->init = dlsym(lib, "tjInitDecompress");
	t->header = dlsym(lib, "tjDecompressHeader3");
	t->planes = dlsym(lib, "tjDecompressToYUVPlanes");
	t->error = dlsym(lib, "tjGetErrorStr2");
	t->code = dlsym(lib, "tjGetErrorCode");
	t->destroy = dlsym(lib, "tjDestroy");
	t->newer = dlsym(lib, "tj3Init") != 0;
	if (!t->init || !t->header || !t->planes || !t->error || !t->code || !t->destroy)
		return "libturbojpeg.so.0 is older than 2.0";
	return 0;
}

void *covey_turbo_init(covey_turbo *t) { return t->init(); }
const char *covey_turbo_error(covey_turbo *t, void *h) { return t->error(h); }
void covey_turbo_destroy(covey_turbo *t, void *h) { t->destroy(h); }

int covey_turbo_header(covey_turbo *t, void *h, const unsigned char *file, size_t n, int out[4]) {
	return t->header(h, file, n, &out[0], &out[1], &out[2], &out[3]);
}

int covey_turbo_decode(covey_turbo *t, void *h, const unsigned char *file, size_t n, unsigned char *out,
	int width, int height, int stride_y, int rows_y, int stride_c, int rows_c) {
	size_t luma = (size_t)stride_y * rows_y, chroma = (size_t)stride_c * rows_c;
	unsigned char *planes[3] = {out, out + luma, out + luma + chroma};
	int strides[3] = {stride_y, stride_c, stride_c};
	if (t->planes(h, file, n, planes, width, strides, height, LIMIT_SCANS) == 0) return 0;
	return t->code(h) == WARNING ? 1 : -1;
}
