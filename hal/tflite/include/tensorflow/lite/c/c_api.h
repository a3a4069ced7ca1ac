// The functions of libtensorflowlite_c that go-tflite v1.0.10 calls, written for
// Covey so that nothing has to be downloaded to compile.
#ifndef COVEY_TENSORFLOW_LITE_C_C_API_H_
#define COVEY_TENSORFLOW_LITE_C_C_API_H_

#include <stdarg.h>

#include "tensorflow/lite/c/common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TfLiteModel TfLiteModel;
typedef struct TfLiteInterpreterOptions TfLiteInterpreterOptions;
typedef struct TfLiteInterpreter TfLiteInterpreter;
typedef struct TfLiteSignatureRunner TfLiteSignatureRunner;
typedef void (*TfLiteErrorReporterFunction)(void* user_data, const char* format, va_list args);

const char* TfLiteVersion(void);
const char* TfLiteExtensionApisVersion(void);
int TfLiteSchemaVersion(void);

TfLiteModel* TfLiteModelCreate(const void* data, size_t size);
TfLiteModel* TfLiteModelCreateWithErrorReporter(const void* data, size_t size,
                                                TfLiteErrorReporterFunction, void* user_data);
TfLiteModel* TfLiteModelCreateFromFile(const char* path);
TfLiteModel* TfLiteModelCreateFromFileWithErrorReporter(const char* path,
                                                        TfLiteErrorReporterFunction,
                                                        void* user_data);
void TfLiteModelDelete(TfLiteModel*);

TfLiteInterpreterOptions* TfLiteInterpreterOptionsCreate(void);
TfLiteInterpreterOptions* TfLiteInterpreterOptionsCopy(const TfLiteInterpreterOptions*);
void TfLiteInterpreterOptionsDelete(TfLiteInterpreterOptions*);
void TfLiteInterpreterOptionsSetNumThreads(TfLiteInterpreterOptions*, int32_t threads);
void TfLiteInterpreterOptionsAddDelegate(TfLiteInterpreterOptions*, TfLiteDelegate*);
void TfLiteInterpreterOptionsSetErrorReporter(TfLiteInterpreterOptions*,
                                              TfLiteErrorReporterFunction, void* user_data);
TfLiteStatus TfLiteInterpreterOptionsEnableCancellation(TfLiteInterpreterOptions*, bool enable);

TfLiteInterpreter* TfLiteInterpreterCreate(const TfLiteModel*, const TfLiteInterpreterOptions*);
void TfLiteInterpreterDelete(TfLiteInterpreter*);
int32_t TfLiteInterpreterGetInputTensorCount(const TfLiteInterpreter*);
const int* TfLiteInterpreterInputTensorIndices(const TfLiteInterpreter*);
TfLiteTensor* TfLiteInterpreterGetInputTensor(const TfLiteInterpreter*, int32_t index);
TfLiteStatus TfLiteInterpreterResizeInputTensor(TfLiteInterpreter*, int32_t index,
                                                const int* dims, int32_t dims_size);
TfLiteStatus TfLiteInterpreterAllocateTensors(TfLiteInterpreter*);
TfLiteStatus TfLiteInterpreterInvoke(TfLiteInterpreter*);
int32_t TfLiteInterpreterGetOutputTensorCount(const TfLiteInterpreter*);
const int* TfLiteInterpreterOutputTensorIndices(const TfLiteInterpreter*);
const TfLiteTensor* TfLiteInterpreterGetOutputTensor(const TfLiteInterpreter*, int32_t index);
TfLiteTensor* TfLiteInterpreterGetTensor(const TfLiteInterpreter*, int index);
TfLiteStatus TfLiteInterpreterCancel(const TfLiteInterpreter*);

int32_t TfLiteInterpreterGetSignatureCount(const TfLiteInterpreter*);
const char* TfLiteInterpreterGetSignatureKey(const TfLiteInterpreter*, int32_t index);
TfLiteSignatureRunner* TfLiteInterpreterGetSignatureRunner(const TfLiteInterpreter*,
                                                           const char* key);
size_t TfLiteSignatureRunnerGetInputCount(const TfLiteSignatureRunner*);
const char* TfLiteSignatureRunnerGetInputName(const TfLiteSignatureRunner*, int32_t index);
TfLiteStatus TfLiteSignatureRunnerResizeInputTensor(TfLiteSignatureRunner*, const char* name,
                                                    const int* dims, int32_t dims_size);
TfLiteStatus TfLiteSignatureRunnerAllocateTensors(TfLiteSignatureRunner*);
TfLiteTensor* TfLiteSignatureRunnerGetInputTensor(TfLiteSignatureRunner*, const char* name);
TfLiteStatus TfLiteSignatureRunnerInvoke(TfLiteSignatureRunner*);
size_t TfLiteSignatureRunnerGetOutputCount(const TfLiteSignatureRunner*);
const char* TfLiteSignatureRunnerGetOutputName(const TfLiteSignatureRunner*, int32_t index);
const TfLiteTensor* TfLiteSignatureRunnerGetOutputTensor(const TfLiteSignatureRunner*,
                                                         const char* name);
TfLiteStatus TfLiteSignatureRunnerCancel(TfLiteSignatureRunner*);
void TfLiteSignatureRunnerDelete(TfLiteSignatureRunner*);

TfLiteType TfLiteTensorType(const TfLiteTensor*);
int32_t TfLiteTensorNumDims(const TfLiteTensor*);
int32_t TfLiteTensorDim(const TfLiteTensor*, int32_t index);
size_t TfLiteTensorByteSize(const TfLiteTensor*);
void* TfLiteTensorData(const TfLiteTensor*);
const char* TfLiteTensorName(const TfLiteTensor*);
TfLiteQuantizationParams TfLiteTensorQuantizationParams(const TfLiteTensor*);
TfLiteStatus TfLiteTensorCopyFromBuffer(TfLiteTensor*, const void* data, size_t size);
TfLiteStatus TfLiteTensorCopyToBuffer(const TfLiteTensor*, void* data, size_t size);

#ifdef __cplusplus
}
#endif
#endif
