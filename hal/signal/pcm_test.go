package signal

import (
	"fmt"
	"testing"
)

func TestPCM(t *testing.T) {
	for _, tt := range []struct {
		pcm  PCM
		in   []byte
		want string
	}{
		{PCMUint8, []byte{0, 128, 192, 255}, "[-1 0 0.5 0.9921875]"},
		{PCMInt16, []byte{0, 0x80, 0, 0, 0, 0x40, 1, 0, 9}, "[-1 0 0.5 3.0517578e-05]"},
		{PCMInt24, []byte{0, 0, 0x80, 0, 0, 0x40, 1, 0, 0, 0xff, 0xff, 0xff, 1, 2}, "[-1 0.5 1.1920929e-07 -1.1920929e-07]"},
		{PCMInt32, []byte{0, 0, 0, 0x80, 0, 0, 0, 0x40}, "[-1 0.5]"},
		{PCMFloat32, []byte{0, 0, 0, 0x3f, 0, 0, 0xc0, 0x7f, 0, 0, 0x80, 0xff, 0, 0, 0, 0xc0}, "[0.5 0 0 -2]"},
		{PCMFloat64, []byte{0, 0, 0, 0, 0, 0, 0xe0, 0x3f, 0, 0, 0, 0, 0, 0, 0xf0, 0x7f, 0, 0, 0, 0, 0, 0, 0xf0, 0x7e}, "[0.5 0 0]"},
		{PCMNone, []byte{1, 2}, "[]"},
	} {
		if got := fmt.Sprint(tt.pcm.Decode([]float32{}, tt.in)); got != tt.want {
			t.Errorf("%d: got %s, want %s", tt.pcm, got, tt.want)
		}
	}
}
