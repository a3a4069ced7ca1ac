// The part of the TurboJPEG API that is used, written down here so that the program
// compiles without its headers and starts without its library.
#include <stddef.h>

typedef struct {
	void *(*init)(void);
	int (*header)(void *, const unsigned char *, unsigned long, int *width, int *height, int *sampling, int *colours);
	int (*planes)(void *, const unsigned char *, unsigned long, unsigned char **planes, int width, int *strides, int height, int flags);
	char *(*error)(void *);
	int (*code)(void *);
	int (*destroy)(void *);
	int newer; // of generation 3
} covey_turbo;

// covey_turbo_load finds the library; or says why not.
const char *covey_turbo_load(covey_turbo *t);

int covey_turbo_header(covey_turbo *t, void *h, const unsigned char *file, size_t n, int out[4]);

// covey_turbo_decode writes planes that lie one behind the other into out. 0: done;
// 1: done, but the library warns; -1: failed. covey_turbo_error says more.
int covey_turbo_decode(covey_turbo *t, void *h, const unsigned char *file, size_t n, unsigned char *out,
	int width, int height, int stride_y, int rows_y, int stride_c, int rows_c);

void *covey_turbo_init(covey_turbo *t);
const char *covey_turbo_error(covey_turbo *t, void *h);
void covey_turbo_destroy(covey_turbo *t, void *h);
