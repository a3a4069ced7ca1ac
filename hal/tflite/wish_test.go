package tflite

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
)

func TestWish(t *testing.T) {
	many := map[string]string{}
	for i := range maxSettings + 1 {
		many[strings.Repeat("k", i+1)] = ""
	}
	for _, c := range []struct {
		accelerator hal.Accelerator
		device      string
		settings    map[string]string
		want        wish
		says        string // "": no error
	}{
		{accelerator: hal.CPU, want: wish{}},
		{accelerator: hal.CPU, settings: map[string]string{"flags": ""}, says: `cpu has no setting "flags": it has none`},
		{accelerator: hal.CPU, device: "0", says: "cpu has no device"},
		{accelerator: hal.XNNPACK, want: wish{flags: 3}},
		{accelerator: hal.XNNPACK, settings: map[string]string{"flags": ""}, want: wish{flags: 0}},
		{accelerator: hal.XNNPACK, settings: map[string]string{"flags": "fp16,dynamic-fc,transient,latest"}, want: wish{flags: 0x6c}},
		{accelerator: hal.XNNPACK, settings: map[string]string{"flags": "qs8, qu8"}, says: `no flag " qu8": it has dynamic-fc, fp16, latest, qs8, qu8, transient`},
		{accelerator: hal.XNNPACK, settings: map[string]string{"flags": "qs8,"}, says: `no flag ""`},
		{accelerator: hal.XNNPACK, settings: map[string]string{"threads": "2"}, says: `xnnpack has no setting "threads": it has flags`},
		{accelerator: hal.GPU, want: wish{library: gpuLibrary}},
		{accelerator: hal.EdgeTPU, want: wish{library: edgeTPULibrary, keys: []string{"device"}, values: []string{""}}},
		{accelerator: hal.EdgeTPU, device: "pci:1", want: wish{library: edgeTPULibrary, keys: []string{"device"}, values: []string{"pci:1"}}},
		{accelerator: hal.EdgeTPU, device: "usb", settings: map[string]string{"Performance": "Low"},
			want: wish{library: edgeTPULibrary, keys: []string{"Performance", "device"}, values: []string{"Low", "usb:0"}}},
		{accelerator: hal.EdgeTPU, device: "usb:1234", says: "edgetpu has no device"},
		{accelerator: hal.EdgeTPU, settings: map[string]string{"device": "usb"}, says: `edgetpu has no setting "device"`},
		{accelerator: "external:libteflon.so", settings: map[string]string{"b": "2", "a": "1"},
			want: wish{library: "libteflon.so", keys: []string{"a", "b"}, values: []string{"1", "2"}}},
		{accelerator: "external:/usr/lib/libvx_delegate.so", want: wish{library: "/usr/lib/libvx_delegate.so"}},
		{accelerator: "external:/", says: "no delegate library"},
		{accelerator: "external:/usr/../lib.so", says: "no delegate library"},
		{accelerator: "external:a\x00b", says: "no delegate library"},
		{accelerator: "external:x.so", device: "0", says: "has no device"},
		{accelerator: "external:x.so", settings: map[string]string{"": "x"}, says: "empty, too long"},
		{accelerator: "external:x.so", settings: map[string]string{"k": strings.Repeat("v", maxValue+1)}, says: "empty, too long"},
		{accelerator: "external:x.so", settings: map[string]string{"k": "a\x00b"}, says: "zero byte"},
		{accelerator: "external:x.so", settings: many, says: "65 settings of external:x.so, limit is 64"},
		{accelerator: hal.CUDA, says: "this runner cannot use \"cuda\""},
		{accelerator: hal.Auto, says: "this runner cannot use \"auto\""},
	} {
		got, err := newWish(c.accelerator, c.device, c.settings)
		if c.says != "" {
			if hal.CodeOf(err) != hal.CodeAccel || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s %q %v: %v, want %s that says %q", c.accelerator, c.device, c.settings, err, hal.CodeAccel, c.says)
			}
			continue
		}
		c.want.accelerator = c.accelerator
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %q %v: %+v, %v, want %+v", c.accelerator, c.device, c.settings, got, err, c.want)
		}
	}
}

func TestEdgeTPUPairs(t *testing.T) {
	google, ok := parseEdgeTPU(googleLabel)
	if !ok || google.runtime != "14" || google.date != "redacted" {
		t.Fatalf("%+v, %v", google, ok)
	}
	good, ok := parseEdgeTPU(goodLabel)
	if !ok {
		t.Fatal("a label is not understood")
	}
	for _, c := range []struct {
		build  edgeTPUBuild
		tflite string
		fails  bool
	}{{google, "2.5.0", false}, {google, "2.11.1", false}, {google, "2.11.2", true}, {google, "2.17.1", true}, {google, "3.0.0", true}, {good, "2.17.1", false}} {
		if err := c.build.pairs(c.tflite); (err != nil) != c.fails {
			t.Errorf("%s with %s: %v", c.build, c.tflite, err)
		}
	}
}

func TestNotLoaded(t *testing.T) {
	for reason, c := range map[string]struct {
		absent bool
		says   string
	}{
		"libx.so: cannot open shared object file: No such file or directory": {true, "libx.so is not installed"},
		"liby.so: cannot open shared object file: No such file or directory": {false, "install what it needs"},
		"libx.so: cannot open shared object file: Permission denied":         {false, "put it into one of those"},
		"libx.so: wrong ELF class: ELFCLASS32":                               {false, "made for this system"},
		"":                                                                   {false, "cannot be loaded"},
	} {
		err := notLoaded("libx.so", reason)
		if hal.CodeOf(err) != hal.CodeAccel || errors.Is(err, errAbsent) != c.absent || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v, want one that says %q", reason, err, c.says)
		}
	}
}

func FuzzWish(f *testing.F) {
	f.Add("xnnpack", "", "flags", "qs8,qu8")
	f.Add("edgetpu", "usb:0", "Performance", "Max")
	f.Add("external:/usr/lib/teflon/libteflon.so", "", "a", "b")
	f.Fuzz(func(t *testing.T, a, device, key, value string) {
		w, err := newWish(hal.Accelerator(a), device, map[string]string{key: value})
		if err != nil {
			if hal.CodeOf(err) != hal.CodeAccel || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q", err)
			}
			return
		}
		for _, s := range append(append([]string{w.library}, w.keys...), w.values...) {
			if strings.ContainsRune(s, 0) {
				t.Errorf("%q would be cut in C", s)
			}
		}
	})
}

func FuzzEdgeTPUVersion(f *testing.F) {
	f.Add(googleLabel)
	f.Add(goodLabel)
	f.Fuzz(func(t *testing.T, s string) {
		if b, ok := parseEdgeTPU(s); ok && len(b.String()) > 150 {
			t.Errorf("%q", b)
		}
	})
}
