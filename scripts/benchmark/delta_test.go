package main

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/covey-edge/covey/hal/haltest"
)

// What an update brings over the network, per case; bounds with a little room above
// what was measured.
func TestDelta(t *testing.T) {
	old, err := os.ReadFile(haltest.Models(t) + "/label_image/mobilenet_quant_v1_224.tflite")
	if err != nil {
		t.Skip(err)
	}
	w, err := weights(old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := weights(old[:1000]); err == nil {
		t.Error("weights in the first 1000 bytes")
	}
	most := map[string]float64{"head retrained": 0.22, "5 % of weights ±1": 0.05, "20 % of weights ±1": 0.125, "50 % of weights ±1": 0.2,
		"5 % of weights ±1, 16 bytes put in": 0.065, "all weights retrained": 0.71}
	for _, c := range changes() {
		next := c.make(rand.New(rand.NewPCG(1, 2)), old, w, false)
		n, err := travels(old, next)
		if err != nil {
			t.Fatal(err)
		}
		if part := float64(n) / float64(len(next)); part > most[c.name] || most[c.name] == 0 {
			t.Errorf("%s: %.3f of the file travels, want at most %.3f", c.name, part, most[c.name])
		}
	}
}
