package main

import (
	"fmt"
	"testing"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/hal"
)

// What somebody may rely on is told from what nobody sees.
func TestDifference(t *testing.T) {
	picture := []hal.TensorInfo{{Type: hal.Uint8, Shape: []int{1, 224, 224, 3}}}
	scores := []hal.TensorInfo{{Type: hal.Uint8, Shape: []int{1, 3}}}
	old := described{name: "birds", task: "classify", labels: []string{"crow", "jay", "tit"}, inputs: picture, outputs: scores, size: 4000}
	for name, c := range map[string]struct {
		change func(*described)
		want   string
	}{
		"nothing":       {func(*described) {}, "[]"},
		"a label goes":  {func(d *described) { d.labels = []string{"crow", "jay"} }, "[{labels that vanish  tit true}]"},
		"a label comes": {func(d *described) { d.labels = []string{"crow", "jay", "tit", "owl"} }, "[{new labels  owl false}]"},
		"labels swap":   {func(d *described) { d.labels = []string{"jay", "crow", "tit"} }, "[{labels of another class number  crow, jay true}]"},
		"a label is renamed": {func(d *described) { d.labels = []string{"crow", "magpie", "tit"} },
			"[{labels that vanish  jay true} {new labels  magpie false}]"},
		"another task": {func(d *described) { d.task = "detect" }, "[{task classify detect true}]"},
		"another size": {func(d *described) {
			d.inputs = []hal.TensorInfo{{Type: hal.Int8, Shape: []int{1, 96, 96, 3}}}
			d.size = 1000
		},
			"[{inputs uint8[1 224 224 3] int8[1 96 96 3] false} {size 3 kB 1000 B false}]"},
		"one more output": {func(d *described) { d.outputs = append(scores[:1:1], scores...) }, "[{outputs uint8[1 3] uint8[1 3] uint8[1 3] true}]"},
		"a threshold":     {func(d *described) { d.decode = release.Decode{Threshold: .5} }, "[{threshold 0 0.5 false}]"},
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
