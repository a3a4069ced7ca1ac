//go:build cgo

package tflite

import (
	"encoding/binary"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner/proto"
)

func load(t testing.TB, data []byte) *Model {
	t.Helper()
	m, err := Open(proto.Open{Name: "m", Accelerator: hal.Auto, Threads: 1}, data, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// refuse expects that a model is not opened, and returns why.
func refuse(t testing.TB, data []byte) error {
	t.Helper()
	m, err := Open(proto.Open{Name: "m", Accelerator: hal.Auto, Threads: 1}, data, func(string) {})
	if err == nil {
		m.Close()
		t.Fatal("it opened")
	}
	return err
}

// run runs a model on int32 inputs (or raw bytes) and returns the first output.
func run(t testing.TB, m *Model, in ...[]byte) ([]byte, proto.Result, error) {
	t.Helper()
	room := make([]byte, 4096)
	r := proto.Ran{Outputs: make([]proto.Result, len(m.outputs))}
	out := make([][]byte, len(m.outputs))
	for i := range out {
		out[i] = room
	}
	err := m.Run(in, out, &r)
	return room[:r.Outputs[0].Bytes], r.Outputs[0], err
}

func ints(v ...int32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, uint32(x))
	}
	return b
}

// BenchmarkRun is a model that does next to nothing: what is left is the way to
// the library and back.
func BenchmarkRun(b *testing.B) {
	m := load(b, haltest.CrashingModel())
	in, out := [][]byte{ints(6, 8), ints(2, 2)}, [][]byte{make([]byte, 8)}
	r := proto.Ran{Outputs: make([]proto.Result, 1)}
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Run(in, out, &r); err != nil {
			b.Fatal(err)
		}
	}
}
