package main

import (
	"fmt"
	"testing"

	"github.com/covey-edge/covey/fleet/release"
)

// What somebody may rely on is told from what nobody sees.
func TestDifference(t *testing.T) {
	picture := []release.Tensor{{Type: "uint8", Shape: []int{1, 224, 224, 3}}}
	scores := []release.Tensor{{Type: "uint8", Shape: []int{1, 3}}}
	cpu := release.Variant{Engine: "tflite", LatencyMS: 80}
	old := described{name: "birds", task: "classify", kind: "classify", variants: []release.Variant{cpu}, labels: []string{"crow", "jay", "tit"}, inputs: picture, outputs: scores, size: 4000}
	for name, c := range map[string]struct {
		change func(*described)
		want   string
	}{
		"nothing":       {func(*described) {}, "[]"},
		"a label goes":  {func(d *described) { d.labels = []string{"crow", "jay"} }, "[{labels that vanish  tit true} {entities that Home Assistant loses  for each pipeline and zone the count of tit true}]"},
		"a label comes": {func(d *described) { d.labels = []string{"crow", "jay", "tit", "owl"} }, "[{new labels  owl false}]"},
		"labels swap":   {func(d *described) { d.labels = []string{"jay", "crow", "tit"} }, "[{labels of another class number  crow, jay true}]"},
		"a label is renamed": {func(d *described) { d.labels = []string{"crow", "magpie", "tit"} },

			"[{labels that vanish  jay true} {entities that Home Assistant loses  for each pipeline and zone the count of jay true} {new labels  magpie false}]"},
		"another task": {func(d *described) { d.task = "detect" }, "[{task classify detect true}]"},
		"another size": {func(d *described) {
			d.inputs = []release.Tensor{{Type: "int8", Shape: []int{1, 96, 96, 3}}}
			d.size = 1000
		},
			"[{inputs uint8[1 224 224 3] int8[1 96 96 3] false} {size 3 kB 1000 B false}]"},
		"one more output": {func(d *described) { d.outputs = append(scores[:1:1], scores...) }, "[{outputs uint8[1 3] uint8[1 3] uint8[1 3] true}]"},
		"another kind": {func(d *described) { d.kind, d.labels = "raw", nil },
			"[{kind of result classify raw true} {labels that vanish  crow, jay, tit true} {entities that Home Assistant loses  for each pipeline and zone the count of crow, jay, tit true}]"},
		"a budget": {func(d *described) { d.variants = []release.Variant{{Engine: "tflite", LatencyMS: 40, Memory: 1 << 20}} },
			"[{budget of time of tflite 80 ms 40 ms false} {budget of memory of tflite none 1.0 MB false}]"},
		"a variant goes": {func(d *described) {
			d.variants = []release.Variant{{Engine: "tflite", Arch: "arm64", LatencyMS: 80}}
		}, "[{variant that vanishes tflite  true} {new variant  tflite arm64 false}]"},
		"a newer runtime": {func(d *described) { v := cpu; v.MinRuntime = "2.17"; d.variants = []release.Variant{v} },
			"[{oldest runtime of tflite none 2.17 true}]"},
		"configuration": {func(d *described) { d.lines = []string{"threshold: 0.5"} }, "[{lines of configuration that come  threshold: 0.5 false}]"},
		"a threshold":   {func(d *described) { d.decode = release.Decode{Threshold: .5} }, "[{threshold 0 0.5 false}]"},
	} {
		now := old
		c.change(&now)
		if got := fmt.Sprint(difference(old, now)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprint(i))
	}
	if got := some(many); got != "0, 1, 2, 3, 4, 5, 6, 7 and 12 more" {
		t.Error(got)
	}
}
