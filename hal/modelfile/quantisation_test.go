package modelfile_test

import (
	"path/filepath"
	"testing"

	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/modelfile"
)

func TestQuantisation(t *testing.T) {
	for file, want := range map[string]string{
		"label_image/mobilenet_quant_v1_224.tflite": "uint8", "ssd/detect.tflite": "uint8", "segment/deeplabv3_257_mv_gpu.tflite": "float32",
		"audio/okay_nabu.tflite": "int8", "audio/alexa.tflite": "float32", "onnx/silero_vad_16k_op15.onnx": "float32",
	} {
		m, err := modelfile.Open(filepath.Join(haltest.Models(t), file))
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Quantisation(); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
}
