package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestMeasured(t *testing.T) {
	for _, c := range []struct {
		name          string
		rounds        []float64
		aim           goal
		median, worst float64
		verdict       string
	}{
		{"low is good", []float64{1.01, 1.30, 1.00}, atMost(1.02), 1.01, 1.30, "ok"},
		{"low is missed", []float64{1.03, 1.01, 1.05}, atMost(1.02), 1.03, 1.05, "miss"},
		{"high is good", []float64{0.96, 0.90, 0.97}, atLeast(0.95), 0.96, 0.90, "ok"},
		{"high is missed", []float64{0.94, 0.96, 0.90}, atLeast(0.95), 0.94, 0.90, "miss"},
		{"no target", []float64{2, 1, 3, 4}, noGoal, 2.5, 4, ""},
		{"none", nil, atMost(1), 0, 0, "not measured"},
		{"zero counts", []float64{0, 0}, atMost(0), 0, 0, "ok"},
	} {
		r := measured(c.name, "ratio", c.rounds, c.aim)
		if r.Median != c.median || r.Worst != c.worst || r.Verdict != c.verdict {
			t.Errorf("%s: got %v %v %q, want %v %v %q", c.name, r.Median, r.Worst, r.Verdict, c.median, c.worst, c.verdict)
		}
	}
}

func TestPrint(t *testing.T) {
	var b bytes.Buffer
	print(&b, []row{
		measured("invoke", "ratio", []float64{1.0123}, atMost(1.02)),
		measured("memory", "MB", []float64{30}, atMost(25)),
		measured("blast", "MB/s", nil, moreBetter),
	})
	for _, want := range []string{"invoke  1.012    1.012    ≤ 1.02", "memory  30.0 MB  30.0 MB  ≤ 25 MB  miss", "not measured"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("want %q in\n%s", want, b.String())
		}
	}
}
