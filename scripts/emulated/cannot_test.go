package main

import "testing"

func TestCannot(t *testing.T) {
	all, err := parse(cannot)
	if err != nil || len(all) == 0 {
		t.Fatalf("%d entries: %v", len(all), err)
	}
	for _, bad := range []string{"hal TestX", "hal TestX slow", "a T not for it\na T not for it"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestVerdicts(t *testing.T) {
	v := verdicts([]byte("--- PASS: TestA (0.1s)\n    --- FAIL: TestA/x (0.0s)\n--- FAIL: TestB (0.1s)\n--- SKIP: TestC (0s)\n"))
	if len(v["PASS"]) != 1 || len(v["FAIL"]) != 1 || v["FAIL"][0] != "TestB" || len(v["SKIP"]) != 1 {
		t.Errorf("%v", v)
	}
}
