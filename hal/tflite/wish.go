package tflite

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/covey-edge/covey/hal"
)

// A wish is the delegate that a request asks for, and what it is to be told.
type wish struct {
	accelerator  hal.Accelerator
	library      string // a path, or a name for the loader to search; "": the runtime itself
	keys, values []string
	flags        uint32 // of XNNPACK
}

// Libraries of the accelerators that have one of their own.
const (
	edgeTPULibrary = "libedgetpu.so.1"
	gpuLibrary     = "libtensorflowlite_gpu_delegate.so"
)

// Bounds of settings, above what any delegate knows.
const (
	maxSettings = 64
	maxKey      = 128
	maxValue    = 1024
	maxPath     = 512
)

// xnnpackFlags are the bits of XNNPACK's options. Its number 0x10, variable
// operators, is left out: models keep their state with the runtime.
var xnnpackFlags = map[string]uint32{"qs8": 1, "qu8": 2, "fp16": 4, "dynamic-fc": 8, "transient": 0x20, "latest": 0x40}

// Without these XNNPACK leaves quantised operators to kernels that are 2 to 8
// times slower.
const defaultXNNPACKFlags = "qs8,qu8"

var edgeTPUDevice = regexp.MustCompile(`^(usb|pci)?(:[0-9]{1,3})?$`)

// edgeTPUSettings is what libedgetpu knows; it passes over anything else.
var edgeTPUSettings = map[string]*regexp.Regexp{
	"Performance":              regexp.MustCompile(`^(Low|Medium|High|Max)$`),
	"Usb.AlwaysDfu":            regexp.MustCompile(`^(True|False)$`),
	"Usb.MaxBulkInQueueLength": regexp.MustCompile(`^([0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])$`),
}

// newWish reads a request. Errors are E_ACCEL.
func newWish(a hal.Accelerator, device string, settings map[string]string) (wish, error) {
	w := wish{accelerator: a}
	library, external := strings.CutPrefix(string(a), "external:")
	switch {
	case external:
		if err := checkLibrary(library); err != nil {
			return w, err
		}
	case !slices.Contains([]hal.Accelerator{hal.CPU, hal.XNNPACK, hal.GPU, hal.EdgeTPU}, a):
		return w, errorf(hal.CodeAccel, "this runner cannot use %.60q; it has xnnpack, cpu, gpu, edgetpu and external:<library>", a)
	}
	if len(settings) > maxSettings {
		return w, errorf(hal.CodeAccel, "%d settings of %s, limit is %d", len(settings), a, maxSettings)
	}
	for k, v := range settings {
		if k == "" || len(k) > maxKey || len(v) > maxValue || strings.ContainsRune(k+v, 0) {
			return w, errorf(hal.CodeAccel, "setting %.40q of %s is empty, too long (limits are %d and %d bytes) or has a zero byte", k, a, maxKey, maxValue)
		}
	}
	if a != hal.EdgeTPU && device != "" {
		return w, errorf(hal.CodeAccel, "%s has no device %.40q: leave the device out", a, device)
	}
	switch a {
	case hal.CPU:
		return w, known(a, settings)
	case hal.XNNPACK:
		return w, w.readFlags(settings)
	case hal.EdgeTPU:
		return w, w.readEdgeTPU(device, settings)
	case hal.GPU:
		library = gpuLibrary
	}
	w.library = library
	w.tell(settings)
	return w, nil
}

// checkLibrary wants a path or a name: a relative path would mean another file in
// another folder.
func checkLibrary(library string) error {
	bad := library == "" || len(library) > maxPath || strings.ContainsFunc(library, unicode.IsControl) || library != filepath.Clean(library) || library == "/" ||
		strings.Contains(library, "/") && !filepath.IsAbs(library)
	if bad {
		return errorf(hal.CodeAccel, "%.60q is no delegate library: write external:/path/to/lib.so or external:lib.so", library)
	}
	return nil
}

func (w *wish) readFlags(settings map[string]string) error {
	if err := known(w.accelerator, settings, "flags"); err != nil {
		return err
	}
	list, ok := settings["flags"]
	if !ok {
		list = defaultXNNPACKFlags
	}
	for name := range strings.SplitSeq(list, ",") {
		bit, ok := xnnpackFlags[name]
		if !ok && list != "" {
			return errorf(hal.CodeAccel, "xnnpack has no flag %.40q: it has %s", name, strings.Join(slices.Sorted(maps.Keys(xnnpackFlags)), ", "))
		}
		w.flags |= bit
	}
	return nil
}

func (w *wish) readEdgeTPU(device string, settings map[string]string) error {
	w.library = edgeTPULibrary
	if !edgeTPUDevice.MatchString(device) {
		return errorf(hal.CodeAccel, "edgetpu has no device %.40q: write usb, pci, usb:0, pci:1, or :0 for any", device)
	}
	if err := known(w.accelerator, settings, slices.Collect(maps.Keys(edgeTPUSettings))...); err != nil {
		return err
	}
	for k, v := range settings {
		if !edgeTPUSettings[k].MatchString(v) {
			return errorf(hal.CodeAccel, "edgetpu's setting %s cannot be %.40q: it is one of %s", k, v, strings.Trim(edgeTPUSettings[k].String(), "^$"))
		}
	}
	if len(settings) > 0 && !strings.Contains(device, ":") {
		device += ":0" // libedgetpu heeds the others only beside an index
	}
	told := maps.Clone(settings)
	if told == nil {
		told = map[string]string{}
	}
	told["device"] = device
	w.tell(told)
	return nil
}

// tell takes settings over as options, in an order that is always the same.
func (w *wish) tell(settings map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		w.keys, w.values = append(w.keys, k), append(w.values, settings[k])
	}
}

// known refuses a setting that is not one of names.
func known(a hal.Accelerator, settings map[string]string, names ...string) error {
	for k := range settings {
		if !slices.Contains(names, k) {
			slices.Sort(names)
			return errorf(hal.CodeAccel, "%s has no setting %.40q: it has %s", a, k, list(names))
		}
	}
	return nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// An edgeTPUBuild is what a libedgetpu says of itself.
type edgeTPUBuild struct {
	compiler, date string
	runtime        string // version that compiled models ask for
}

// edgetpu_version() gives "BuildLabel(COMPILER=6.3.0 20170516,DATE=redacted,TIME=redacted), RuntimeVersion(14)".
var buildLabel = regexp.MustCompile(`^BuildLabel\(COMPILER=([^,()]{1,60}),DATE=([^,()]{1,40}),TIME=[^()]{1,40}\), RuntimeVersion\(([0-9]{1,4})\)$`)

func parseEdgeTPU(version string) (b edgeTPUBuild, ok bool) {
	m := buildLabel.FindStringSubmatch(version)
	if m == nil {
		return b, false
	}
	return edgeTPUBuild{compiler: m[1], date: m[2], runtime: m[3]}, true
}

func (b edgeTPUBuild) String() string {
	return fmt.Sprintf("runtime %s, compiler %s, date %s", b.runtime, b.compiler, b.date)
}

// Pairs that are known (github.com/google-coral/edgetpu/issues/812): Google's own
// builds, which its old compiler gives away, are made for TensorFlow 2.5 and die
// with what came after TFLite 2.11.
const (
	googleCompiler  = "6.3.0 20170516"
	newestForGoogle = "2.11.1"
	edgeTPUPackage  = "16.0TF2.17.1"
	edgeTPURemedy   = "install libedgetpu " + edgeTPUPackage + " (github.com/feranick/libedgetpu/releases)"
)

// pairs says why a libedgetpu cannot be used with this TFLite, nil when nothing
// speaks against it.
func (b edgeTPUBuild) pairs(tflite string) error {
	if b.compiler == googleCompiler && newer(tflite, newestForGoogle) {
		return errorf(hal.CodeAccel, "libedgetpu (%s) is Google's own build of 2021 for TensorFlow 2.5; with TFLite %s it is known to crash: %s", b, tflite, edgeTPURemedy)
	}
	return nil
}

// newer compares versions like "2.17.1" by number.
func newer(a, b string) bool {
	var x, y [3]int
	fmt.Sscanf(a, "%d.%d.%d", &x[0], &x[1], &x[2])
	fmt.Sscanf(b, "%d.%d.%d", &y[0], &y[1], &y[2])
	return slices.Compare(x[:], y[:]) > 0
}
