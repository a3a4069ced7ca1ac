//go:build cgo

package tflite

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner/proto"
)

const segment = "segment/deeplabv3_257_mv_gpu.tflite" // 70 operators, 10 of which the stand-in takes

// TestRest: what a delegate leaves goes to XNNPACK, and counts as left.
func TestRest(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(haltest.Models(t), segment))
	if err != nil {
		t.Fatal(err)
	}
	open := func(a hal.Accelerator, settings map[string]string) *Model {
		t.Helper()
		m, err := Open(proto.Open{Name: "m", Accelerator: a, Threads: 1, Settings: settings}, data, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		return m
	}
	answer := func(m *Model) []byte {
		t.Helper()
		in := make([]byte, m.opened.Inputs[0].Bytes)
		for i := 0; i < len(in); i += 4 {
			binary.LittleEndian.PutUint32(in[i:], math.Float32bits(float32(math.Sin(float64(i)))))
		}
		out := make([]byte, m.opened.Outputs[0].Bytes)
		if err := m.Run([][]byte{in}, [][]byte{out}, &proto.Ran{Outputs: make([]proto.Result, 1)}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := answer(open(hal.CPU, nil))
	external := hal.Accelerator("external:" + haltest.Delegate(t))
	for _, settings := range []map[string]string{nil, {"dynamic": "1"}} {
		m := open(external, settings)
		for what := range strings.FieldsSeq("opened reset") {
			o := m.Opened()
			if o.Accelerator != external || o.Ops != 70 || o.Delegated != 10 || len(o.Tried) != 0 {
				t.Errorf("%v, %s: %s took %d of %d operators, %v", settings, what, o.Accelerator, o.Delegated, o.Ops, o.Tried)
			}
			if n := m.count(); n.all != n.delegated {
				t.Errorf("%v, %s: %d of %d nodes are on the plain CPU", settings, what, n.all-n.delegated, n.all)
			}
			if d := apart(answer(m), want); d > 1e-3 {
				t.Errorf("%v, %s: answers are up to %g from the plain CPU's", settings, what, d)
			}
			if err := m.Reset(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// apart is the largest difference of two lists of float32.
func apart(a, b []byte) (most float64) {
	at := func(b []byte, i int) float64 { return float64(math.Float32frombits(binary.LittleEndian.Uint32(b[i:]))) }
	for i := 0; i < len(a); i += 4 {
		most = max(most, math.Abs(at(a, i)-at(b, i)))
	}
	return most
}

// TestRestRefused: an XNNPACK that does not want the rest costs nothing but itself,
// whatever the library does to the other delegate because of it.
func TestRestRefused(t *testing.T) {
	external := hal.Accelerator("external:" + haltest.Delegate(t))
	m := hal.Model{Name: "segment", Path: filepath.Join(haltest.Models(t), segment)}
	for status := range 4 { // of Prepare; with 0 there is none
		xnnpack := compile(t, "libxnnpack.so", fmt.Sprintf(`
#include <tensorflow/lite/c/common.h>
static TfLiteStatus prepare(TfLiteContext* c, TfLiteDelegate* d) { return %d; }
static TfLiteDelegate xnnpack = {.Prepare = prepare};
TfLiteDelegate* TfLiteXNNPackDelegateCreate(const void* options) { return %[1]d ? &xnnpack : NULL; }
void TfLiteXNNPackDelegateDelete(TfLiteDelegate* d) {}
uint32_t TfLiteXNNPackDelegateGetFlags(TfLiteDelegate* d) { return ~0u; }
`, status))
		s, err := engine(t, "LD_PRELOAD="+xnnpack).Open(t.Context(), m, hal.Options{Accelerator: external, Threads: 1})
		if err != nil {
			t.Errorf("status %d: %v", status, err)
			continue
		}
		i := s.Info()
		if i.Accelerator != external || i.Ops != 70 || i.Delegated != 10 || len(i.Tried) != 1 || i.Tried[0].Accelerator != hal.XNNPACK {
			t.Errorf("status %d: %s took %d of %d operators, %v", status, i.Accelerator, i.Delegated, i.Ops, i.Tried)
		}
		if _, err := s.Run(0); err != nil {
			t.Errorf("status %d: %v", status, err)
		}
		s.Close()
	}
}
