package onnx

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/covey-edge/covey/hal"
)

func TestWish(t *testing.T) {
	w, err := newWish(hal.TensorRT, "gpu:1", map[string]string{"trt_fp16_enable": "1", "enable_cpu_mem_arena": "0", "cache": "/var/lib/covey/trt", "shape.x": "1"})
	if err != nil || w.device != 1 || w.cache != "/var/lib/covey/trt" ||
		!maps.Equal(w.provider, map[string]string{"trt_fp16_enable": "1"}) || !maps.Equal(w.session, map[string]string{"enable_cpu_mem_arena": "0"}) {
		t.Errorf("%+v, %v", w, err)
	}
	for _, c := range []struct {
		a        hal.Accelerator
		device   string
		settings map[string]string
	}{
		{hal.XNNPACK, "", nil},
		{hal.CPU, "gpu:0", nil},
		{hal.CUDA, "usb:0", nil},
		{hal.CUDA, "gpu:-1", nil},
		{hal.CUDA, "", map[string]string{"trt_fp16_enable": "1"}},
		{hal.TensorRT, "", map[string]string{"trt_fp16_enable": "yes"}},
		{hal.TensorRT, "", map[string]string{"trt_engine_cache_path": "/etc"}},
		{hal.TensorRT, "", map[string]string{"cache": "engines"}},
		{hal.TensorRT, "", map[string]string{"cache": "/a/../etc"}},
		{hal.TensorRT, "", map[string]string{"cache": "/"}},
		{hal.CPU, "", map[string]string{"": ""}},
	} {
		if _, err := newWish(c.a, c.device, c.settings); hal.CodeOf(err) != hal.CodeAccel {
			t.Errorf("%s %q %v: %v", c.a, c.device, c.settings, err)
		}
	}
}

// TestEngineFolder: whatever an engine was built for is part of its place.
func TestEngineFolder(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range [][]string{{"m", "o", "s", "1.24.4", "10.3.0", "12.6", "Orin"}, {"n", "o", "s", "1.24.4", "10.3.0", "12.6", "Orin"},
		{"m", "p", "s", "1.24.4", "10.3.0", "12.6", "Orin"}, {"m", "o", "s", "1.24.4", "10.4.0", "12.6", "Orin"}, {"m", "o", "s", "1.24.4", "10.3.0", "12.6", "Xavier"},
		{"m", "os", "", "1.24.4", "10.3.0", "12.6", "Orin"}} {
		folder := engineFolder("/c", []byte(c[0]), c[1:]...)
		if seen[folder] || filepath.Dir(folder) != "/c" || folder != engineFolder("/c", []byte(c[0]), c[1:]...) {
			t.Errorf("%q: %s", c, folder)
		}
		seen[folder] = true
	}
}

func TestCacheKeepsItsSize(t *testing.T) {
	cache := t.TempDir()
	now := time.Now()
	folder := func(name string) string { return filepath.Join(cache, "trt-"+name) }
	for i, name := range []string{"new", "middle", "old"} {
		if err := os.MkdirAll(folder(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder(name), "engine"), make([]byte, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(folder(name), now, now.Add(-time.Duration(i+1)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(cache, "other"), make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := prepare(folder("old"), 2500, now); err != nil { // used again: not the oldest any more
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"trt-old": true, "trt-new": true, "trt-middle": false, "other": true} {
		if _, err := os.Stat(filepath.Join(cache, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it to be there: %v", name, err, want)
		}
	}
	if err := prepare(folder("fresh"), 0, now); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(cache); len(left) != 2 {
		t.Errorf("%v are left, want the folder in use and what is not ours", left)
	}
	if err := prepare(filepath.Join(cache, "other", "trt-x"), 0, now); hal.CodeOf(err) != hal.CodeAccel {
		t.Errorf("a file in the way: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for said, want := range map[string]hal.Code{
		"Error creating C session: std::bad_alloc":                                                 hal.CodeMemory,
		"/o/core/graph/model.cc:195 onnxruntime::Model::Model(x) Unsupported model IR version: 99": hal.CodeRuntime,
		"Fatal error: Foo(-1) is not a registered function/op":                                     hal.CodeOp,
		"Could not find an implementation for Conv(11) node with name 'c'":                         hal.CodeOp,
		"Protobuf parsing failed.":                                                                 hal.CodeModelFormat,
		"":                                                                                         hal.CodeModelFormat,
	} {
		if err := refused("making a session", "m", said); hal.CodeOf(err) != want {
			t.Errorf("%q: %v, want %s", said, err, want)
		}
	}
}
