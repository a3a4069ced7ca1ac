package release

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/modelfile"
)

// Defaults are what a manifest gets where it, or the lack of one, says nothing.
type Defaults struct {
	Name    string // "": made from the file's or folder's name
	Version string // "": 0.0.0+sha.<12 digits of the first model's hash>
	Task    string // "": auto
}

// Build makes the manifest of what lies at from: a model file, or a folder with
// models, perhaps labels.txt, perhaps a release.json that says more (its files
// need a name each; lengths and hashes are filled in, and must fit where they
// are given). It returns where each file of the release lies. Files outside the
// folder are refused, symbolic links to them too.
func Build(from string, d Defaults) (*Manifest, map[wire.Digest]string, error) {
	fi, err := os.Stat(from)
	if err != nil {
		return nil, nil, fmt.Errorf("build release: %w", err)
	}
	dir := from
	m := &Manifest{V: 1}
	if fi.IsDir() {
		m, err = template(from)
	} else {
		dir = filepath.Dir(from)
		m.Variants = []Variant{{File: File{Name: filepath.Base(from)}}}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("build release from %s: %w", from, err)
	}
	files, err := m.fill(dir)
	if err == nil {
		m.defaults(from, dir, d)
		err = m.Validate()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("build release from %s: %w", from, err)
	}
	if n := len(m.Canonical()); n > MaxManifest {
		return nil, nil, coded(hal.CodeManifest, "the manifest would have %d bytes: the limit is %d, which is about 1.5 GB of files", n, MaxManifest)
	}
	return m, files, nil
}

// template reads a folder's release.json, or makes one up from its files.
func template(dir string) (*Manifest, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(FileName)
	if err == nil {
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, MaxManifest+1))
		if err != nil {
			return nil, err
		}
		return decode(b)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	m := &Manifest{V: 1}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries { // sorted by name
		switch {
		case engineOf(e.Name()) != "":
			m.Variants = append(m.Variants, Variant{File: File{Name: e.Name()}})
		case e.Name() == "labels.txt":
			m.Labels = &File{Name: e.Name()}
		}
	}
	if len(m.Variants) == 0 {
		return nil, coded(hal.CodeManifest, "no %s and no .tflite file in %s: name the folder of a model, or the file itself", FileName, dir)
	}
	return m, nil
}

// engineOf guesses a file's engine from its name.
func engineOf(name string) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".tflite":
		return "tflite"
	case ".onnx":
		return "onnx"
	}
	return ""
}

// fill hashes every file that m names and writes down what it found.
func (m *Manifest) fill(dir string) (map[wire.Digest]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	files := map[wire.Digest]string{}
	for _, f := range m.files() {
		if !ValidPath(f.Name) {
			return nil, coded(hal.CodePath, "illegal file name %.80q: write it relative to the release's folder, without ..", f.Name)
		}
		got, err := hashFile(root, f.Name)
		if err != nil {
			return nil, err
		}
		if f.SHA256 != "" && f.SHA256 != got.SHA256 || f.Length != 0 && f.Length != got.Length ||
			len(f.Blocks) > 0 && !slices.Equal(f.Blocks, got.Blocks) {
			return nil, coded(hal.CodeHash, "%s is not the file that %s describes: want %.16s… got %.16s…", f.Name, FileName, f.SHA256, got.SHA256)
		}
		*f = got
		files[wire.Digest(got.SHA256)] = filepath.Join(dir, filepath.FromSlash(f.Name))
	}
	return files, nil
}

func hashFile(root *os.Root, name string) (File, error) {
	r, err := root.Open(name)
	if err != nil {
		return File{}, err
	}
	defer r.Close()
	fi, err := r.Stat()
	if err != nil {
		return File{}, err
	}
	if !fi.Mode().IsRegular() {
		return File{}, coded(hal.CodePath, "%s is not a regular file", name)
	}
	f := File{Name: name, Blocks: []byte{}}
	whole, buf := sha256.New(), make([]byte, wire.BlockSize)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			whole.Write(buf[:n])
			sum := sha256.Sum256(buf[:n])
			f.Blocks = append(f.Blocks, sum[:]...)
			f.Length += int64(n)
		}
		if f.Length > MaxFile {
			return File{}, coded(hal.CodeLength, "%s is longer than %d bytes", name, MaxFile)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			f.SHA256 = hex.EncodeToString(whole.Sum(nil))
			return f, nil
		}
		if err != nil {
			return File{}, err
		}
	}
}

// compiled says whether a file is a model compiled for an Edge TPU: it has that
// accelerator's operator. What cannot be read is not, here: what is wrong with it
// others say better.
func compiled(path string) bool {
	m, err := modelfile.Open(path)
	return err == nil && m.Format == modelfile.FormatTFLite && m.Supports(hal.EdgeTPU) == nil
}

// siblingFor is the name of the file that v was compiled from: the Edge TPU
// compiler adds _edgetpu to it. Otherwise the only one for any accelerator; "" when
// there is none, or several.
func (m *Manifest) siblingFor(v Variant) string {
	from := strings.TrimSuffix(v.File.Name, "_edgetpu.tflite") + ".tflite"
	var plain []string
	for _, s := range m.Variants {
		if s.Engine != v.Engine || s.Accelerator != "" || s.Arch != "" && s.Arch != v.Arch {
			continue
		}
		if s.File.Name == from {
			return from
		}
		plain = append(plain, s.File.Name)
	}
	if len(plain) == 1 {
		return plain[0]
	}
	return ""
}

// defaults fills in what is not said; dir is where the files lie.
func (m *Manifest) defaults(from, dir string, d Defaults) {
	if d.Name != "" {
		m.Name = d.Name
	}
	if m.Name == "" {
		if abs, err := filepath.Abs(from); err == nil {
			from = abs // the folder "." has a name too
		}
		base := filepath.Base(from)
		if engineOf(base) != "" {
			base = strings.TrimSuffix(base, path.Ext(base))
		}
		m.Name = wire.MakeID(base)
	}
	if d.Task != "" {
		m.Task = d.Task
	}
	for i := range m.Variants {
		v := &m.Variants[i]
		if v.Engine == "" {
			v.Engine = engineOf(v.File.Name)
		}
		if v.Accelerator == "" && compiled(filepath.Join(dir, filepath.FromSlash(v.File.Name))) {
			v.Accelerator = string(hal.EdgeTPU)
		}
	}
	for i := range m.Variants {
		if v := &m.Variants[i]; v.Accelerator == string(hal.EdgeTPU) && v.Sibling == "" {
			v.Sibling = m.siblingFor(*v)
		}
	}
	if d.Version != "" {
		m.Version = d.Version
	}
	if m.Version == "" && len(m.Variants) > 0 {
		m.Version = "0.0.0+sha." + m.Variants[0].File.SHA256[:12]
	}
}
