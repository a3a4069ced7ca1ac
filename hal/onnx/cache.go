package onnx

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/covey-edge/covey/hal"
)

// maxCache is how many bytes of engines are kept.
const maxCache = 1 << 30

// engineFolder is the folder for the engines of one model on one machine: madeFor is
// the options, sizes, versions and the GPU that they are built for. They are good for
// nothing else, and ONNX Runtime does not look whether all that is still the same.
func engineFolder(cache string, model []byte, madeFor ...string) string {
	sum := sha256.Sum256(model)
	key := sha256.New()
	for _, part := range append([]string{hex.EncodeToString(sum[:])}, madeFor...) {
		key.Write([]byte(part))
		key.Write([]byte{0})
	}
	return filepath.Join(cache, "trt-"+hex.EncodeToString(key.Sum(nil)[:16]))
}

// prepare makes a folder of the cache, marks it as used at now, and removes those
// that were not used for longest, until no more than limit bytes are left.
func prepare(folder string, limit int64, now time.Time) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return &hal.Error{Code: hal.CodeAccel, Text: "folder for TensorRT's engines: " + err.Error(), Err: err}
	}
	_ = os.Chtimes(folder, now, now) // a cache that is in order only by half is no fault
	type old struct {
		path  string
		used  time.Time
		bytes int64
	}
	var all []old
	var total int64
	entries, err := os.ReadDir(filepath.Dir(folder))
	if err != nil {
		return &hal.Error{Code: hal.CodeAccel, Text: "folder for TensorRT's engines: " + err.Error(), Err: err}
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || !strings.HasPrefix(e.Name(), "trt-") {
			continue
		}
		o := old{filepath.Join(filepath.Dir(folder), e.Name()), info.ModTime(), size(filepath.Join(filepath.Dir(folder), e.Name()))}
		total += o.bytes
		if o.path != folder {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b old) int { return a.used.Compare(b.used) })
	for _, o := range all {
		if total <= limit {
			break
		}
		if os.RemoveAll(o.path) == nil {
			total -= o.bytes
		}
	}
	return nil
}

// size is how many bytes the files below a folder have.
func size(folder string) (bytes int64) {
	_ = filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil
	})
	return bytes
}
