// The experimental functions of libtensorflowlite_c that go-tflite v1.0.10
// calls, written for Covey so that nothing has to be downloaded to compile.
#ifndef COVEY_TENSORFLOW_LITE_C_C_API_EXPERIMENTAL_H_
#define COVEY_TENSORFLOW_LITE_C_C_API_EXPERIMENTAL_H_

#include "tensorflow/lite/c/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

TfLiteStatus TfLiteInterpreterResetVariableTensors(TfLiteInterpreter*);
void TfLiteInterpreterOptionsAddBuiltinOp(TfLiteInterpreterOptions*, TfLiteBuiltinOperator,
                                          const TfLiteRegistration*, int32_t min_version,
                                          int32_t max_version);
void TfLiteInterpreterOptionsAddCustomOp(TfLiteInterpreterOptions*, const char* name,
                                         const TfLiteRegistration*, int32_t min_version,
                                         int32_t max_version);
void TfLiteInterpreterOptionsSetUseNNAPI(TfLiteInterpreterOptions*, bool enable);
void TfLiteInterpreterOptionsSetEnableDelegateFallback(TfLiteInterpreterOptions*, bool enable);
TfLiteStatus TfLiteInterpreterModifyGraphWithDelegate(const TfLiteInterpreter*, TfLiteDelegate*);
int32_t TfLiteInterpreterGetInputTensorIndex(const TfLiteInterpreter*, int32_t index);
int32_t TfLiteInterpreterGetOutputTensorIndex(const TfLiteInterpreter*, int32_t index);
int32_t TfLiteInterpreterGetVariableTensorCount(const TfLiteInterpreter*);
TfLiteTensor* TfLiteInterpreterGetVariableTensor(const TfLiteInterpreter*, int32_t index);
TfLiteStatus TfLiteInterpreterEnsureTensorDataIsReadable(TfLiteInterpreter*, int index);

#ifdef __cplusplus
}
#endif
#endif
