package release_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/fleet/wire"
	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
)

// folder writes files and returns where.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "Bird Finder")
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func wantCode(t *testing.T, err error, want hal.Code) {
	t.Helper()
	if got := hal.CodeOf(err); got != want {
		t.Errorf("got %v with code %q, want %q", err, got, want)
	}
}

func TestBuildFile(t *testing.T) {
	model := strings.Repeat("m", 3*wire.BlockSize+5)
	dir := folder(t, map[string]string{"SSD v1.tflite": model})
	m, files, err := release.Build(filepath.Join(dir, "SSD v1.tflite"), release.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	f := m.Variants[0].File
	if m.Name != "ssd-v1" || m.Version != "0.0.0+sha."+f.SHA256[:12] || m.Variants[0].Engine != "tflite" ||
		f.Length != int64(len(model)) || len(f.Blocks) != 4*32 || files[wire.Digest(f.SHA256)] != filepath.Join(dir, "SSD v1.tflite") {
		t.Errorf("got %+v, %v", m, files)
	}
	canon := m.Canonical()
	again, err := release.Load(canon, m.Digest())
	if err != nil || !bytes.Equal(again.Canonical(), canon) {
		t.Fatalf("does not read back: %v", err)
	}
	_, err = release.Load(canon, wire.Digest(strings.Repeat("0", 64)))
	wantCode(t, err, hal.CodeHash)
	spaced := append([]byte(" "), canon...)
	if _, err := release.Parse(spaced); err != nil {
		t.Errorf("white space: %v", err)
	}
}

func TestBuildFolder(t *testing.T) {
	dir := folder(t, map[string]string{
		"a.tflite": "AA", "b.tflite": string(haltest.CustomModel("edgetpu-custom-op")), "labels.txt": "cat\n", "readme.md": "",
	})
	m, files, err := release.Build(dir, release.Defaults{Version: "2.0.0", Task: "classify"})
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "bird-finder" || m.Version != "2.0.0" || m.Task != "classify" || len(m.Variants) != 2 || len(files) != 3 ||
		m.Labels == nil || m.Variants[1].Accelerator != "edgetpu" || m.Variants[1].Sibling != "a.tflite" || len(m.Files()) != 3 ||
		len(m.FilesOf(m.Variants[0])) != 2 || len(m.FilesOf(m.Variants[1])) != 3 {
		t.Errorf("got %+v, %v", m, files)
	}

	dir = folder(t, map[string]string{
		"release.json": `{"v":1,"name":"birds","version":"1.0.0","task":"","variants":[{"engine":"tflite","file":{"name":"models/a.tflite"}}],
			"golden":[{"inputs":[{"name":"golden/0.in"}],"label":"peacock"}]}`,
		"models/a.tflite": "AA", "golden/0.in": "in",
	})
	m, files, err = release.Build(dir, release.Defaults{})
	if err != nil || m.Name != "birds" || len(files) != 2 || m.Golden[0].Inputs[0].Length != 2 {
		t.Errorf("got %+v, %v, %v", m, files, err)
	}
}

func TestBuildRefuses(t *testing.T) {
	head := `{"v":1,"name":"x","version":"1.0.0","task":"","variants":[{"engine":"tflite","file":`
	for name, c := range map[string]struct {
		files map[string]string
		want  hal.Code
	}{
		"empty folder":   {map[string]string{"x.txt": "x"}, hal.CodeManifest},
		"empty model":    {map[string]string{"m.tflite": ""}, hal.CodeModelEmpty},
		"dot dot":        {map[string]string{"release.json": head + `{"name":"../secret"}}]}`, "m.tflite": "m"}, hal.CodePath},
		"absolute":       {map[string]string{"release.json": head + `{"name":"/etc/passwd"}}]}`, "m.tflite": "m"}, hal.CodePath},
		"link out":       {map[string]string{"release.json": head + `{"name":"link"}}]}`}, ""},
		"a folder":       {map[string]string{"release.json": head + `{"name":"sub"}}]}`, "sub/x": ""}, hal.CodePath},
		"missing":        {map[string]string{"release.json": head + `{"name":"none.tflite"}}]}`}, ""},
		"hash differs":   {map[string]string{"release.json": head + `{"name":"m.tflite","sha256":"` + strings.Repeat("0", 64) + `"}}]}`, "m.tflite": "m"}, hal.CodeHash},
		"unknown key":    {map[string]string{"release.json": `{"v":1,"nam":"x"}`, "m.tflite": "m"}, hal.CodeJSON},
		"edge tpu alone": {map[string]string{"m.tflite": string(haltest.CustomModel("edgetpu-custom-op"))}, hal.CodeManifest},
		"which sibling":  {map[string]string{"m_edgetpu.tflite": string(haltest.CustomModel("edgetpu-custom-op")), "a.tflite": "a", "b.tflite": "b"}, hal.CodeManifest},
		"no such model":  {map[string]string{"release.json": `{"v":1,"name":"x","version":"1.0.0","variants":[]}`}, hal.CodeManifest},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, c.files)
			if name == "link out" {
				if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link")); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err := release.Build(dir, release.Defaults{})
			if err == nil {
				t.Fatal("was built")
			}
			wantCode(t, err, c.want)
		})
	}
	if _, _, err := release.Build(filepath.Join(t.TempDir(), "none.tflite"), release.Defaults{}); err == nil {
		t.Error("a file that is not there was built")
	}
}

// sample is a small valid manifest.
func sample(t testing.TB) *release.Manifest {
	t.Helper()
	f := func(name, sha string) release.File {
		return release.File{Name: name, SHA256: strings.Repeat(sha, 64), Length: 1, Blocks: bytes.Repeat([]byte{1}, 32)}
	}
	labels := f("labels.txt", "b")
	m := &release.Manifest{V: 1, Name: "birds", Version: "1.2.3-rc.1+x", Task: "classify", Labels: &labels,
		Variants: []release.Variant{{Engine: "tflite", File: f("a.tflite", "a")}},
		Golden:   []release.Golden{{Inputs: []release.File{f("0.in", "c")}, Outputs: []release.File{f("0.out", "d")}, Tolerance: 0.1, Label: "<cat & dog>"}},
		Decode:   release.Decode{Threshold: 0.5, Mean: []float32{127.5}, Std: []float32{127.5}}}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParseRefuses(t *testing.T) {
	good := string(sample(t).Canonical())
	edit := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	block := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32))
	for name, c := range map[string]struct {
		text string
		want hal.Code
	}{
		"nothing":           {"", hal.CodeJSON},
		"cut":               {good[:len(good)-1], hal.CodeJSON},
		"behind the end":    {good + "{}", hal.CodeJSON},
		"not an object":     {"[1]", hal.CodeJSON},
		"null":              {"null", hal.CodeManifest},
		"unknown key":       {edit(`"v":1`, `"v":1,"color":"red"`), hal.CodeJSON},
		"key elsewhere":     {edit(`"v":1`, `"v":1,"engine":"tflite"`), hal.CodeJSON},
		"key in other case": {edit(`"v":1`, `"V":1`), hal.CodeJSON},
		"key twice":         {edit(`"v":1`, `"v":1,"v":1`), hal.CodeJSON},
		"key twice, nested": {edit(`"engine":"tflite"`, `"engine":"tflite","engine":"onnx"`), hal.CodeJSON},
		"bad UTF-8":         {edit(`birds`, "bird\xff"), hal.CodeJSON},
		"deep":              {strings.Repeat("[", 10_000), hal.CodeJSON},
		"NaN":               {edit(`0.1`, `NaN`), hal.CodeJSON},
		"1e400":             {edit(`0.1`, `1e400`), hal.CodeJSON},
		"length as text":    {edit(`"length":1`, `"length":"1"`), hal.CodeJSON},
		"too long":          {edit(`"v":1`, `"v":1`+strings.Repeat(" ", release.MaxManifest)), hal.CodeJSON},
		"v 2":               {edit(`"v":1`, `"v":2`), hal.CodeManifest},
		"name":              {edit(`"birds"`, `"Birds"`), hal.CodeManifest},
		"version":           {edit(`1.2.3-rc.1+x`, `1.2`), hal.CodeManifest},
		"version zero":      {edit(`1.2.3-rc.1+x`, `01.2.3`), hal.CodeManifest},
		"task":              {edit(`"task":"classify"`, `"task":"guess"`), hal.CodeManifest},
		"0-byte model":      {edit(strings.Repeat("a", 64)+`","length":1`, strings.Repeat("a", 64)+`","length":0`), hal.CodeModelEmpty},
		"negative length":   {edit(`"length":1`, `"length":-1`), hal.CodeLength},
		"huge length":       {edit(`"length":1`, `"length":1073741825`), hal.CodeLength},
		"blocks too few":    {edit(`"length":1,`, `"length":65537,`), hal.CodeManifest},
		"no blocks":         {edit(block, ""), hal.CodeManifest},
		"short hash":        {edit(strings.Repeat("a", 64), "aa"), hal.CodeManifest},
		"one name twice":    {edit(`0.out`, `0.in`), hal.CodeManifest},
		"one hash, two lengths": {strings.Replace(edit(strings.Repeat("b", 64), strings.Repeat("a", 64)), `"length":1,"blocks":"`+block, `"length":2,"blocks":"`+block, 1),
			hal.CodeManifest},
		"tolerance":         {edit(`0.1`, `-0.1`), hal.CodeManifest},
		"edge tpu alone":    {edit(`"engine":"tflite"`, `"engine":"tflite","accelerator":"edgetpu"`), hal.CodeManifest},
		"sibling is gone":   {edit(`"engine":"tflite"`, `"engine":"tflite","accelerator":"edgetpu","sibling":"b.tflite"`), hal.CodeManifest},
		"its own sibling":   {edit(`"engine":"tflite"`, `"engine":"tflite","accelerator":"edgetpu","sibling":"a.tflite"`), hal.CodeManifest},
		"golden for nobody": {edit(`"inputs":[`, `"inputs":[],"outputs":[`), hal.CodeJSON},
		"mean without std":  {edit(`"std":[127.5]`, `"std":[]`), hal.CodeManifest},
		"std 0":             {edit(`"std":[127.5]`, `"std":[0]`), hal.CodeManifest},
		"threshold":         {edit(`"threshold":0.5`, `"threshold":1.5`), hal.CodeManifest},
		"dot dot":           {edit(`"a.tflite"`, `"../../etc/passwd"`), hal.CodePath},
		"absolute":          {edit(`"a.tflite"`, `"/a.tflite"`), hal.CodePath},
		"backslash":         {edit(`"a.tflite"`, `"..\\a.tflite"`), hal.CodePath},
		"NUL":               {edit(`"a.tflite"`, `"a\u0000.tflite"`), hal.CodePath},
		"long name":         {edit(`"a.tflite"`, `"`+strings.Repeat("a", 300)+`"`), hal.CodePath},
		"the manifest":      {edit(`"a.tflite"`, `"release.json"`), hal.CodePath},
		"no name":           {edit(`"a.tflite"`, `""`), hal.CodePath},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := release.Parse([]byte(c.text))
			if err == nil {
				t.Fatalf("was taken: %+v", m)
			}
			wantCode(t, err, c.want)
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 400 {
				t.Errorf("not one line: %q", err)
			}
		})
	}
	if m, err := release.Parse([]byte(good)); err != nil || string(m.Canonical()) != good {
		t.Errorf("the good one: %v", err)
	}
	if _, err := release.Parse([]byte("{\n  \"v\": 1,\n  \"x\": 2\n}")); err == nil || !strings.Contains(err.Error(), "line 3 col") {
		t.Errorf("got %v, want the line", err)
	}
}

func FuzzParse(f *testing.F) {
	one := sample(f).Canonical()
	f.Add(one)
	f.Add([]byte(`{"v":1,"decode":{"mean":[],"threshold":-0}}`))
	f.Add([]byte(strings.Replace(string(one), `"threshold":0.5,"mean":[127.5],"std":[127.5]`, `"threshold":-0,"mean":[],"std":[]`, 1)))
	good, err := filepath.Glob("testdata/*/canonical-*.json")
	if err != nil || len(good) == 0 {
		f.Fatal("no examples", err)
	}
	for _, path := range good {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	schema := compiled(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := release.Parse(b)
		if err != nil {
			if hal.CodeOf(err) == "" {
				t.Fatalf("no code: %v", err)
			}
			return
		}
		canon := m.Canonical()
		again, err := release.Load(canon, m.Digest())
		if err != nil {
			t.Fatalf("%s does not read back: %v", canon, err)
		}
		if !bytes.Equal(again.Canonical(), canon) {
			t.Fatalf("canonical twice: %s and %s", canon, again.Canonical())
		}
		if err := held(schema, canon); err != nil {
			t.Fatalf("%s is read, and the schema refuses it: %v", canon, err)
		}
		for _, f := range again.Files() {
			if !release.ValidPath(f.Name) || strings.Contains(f.Name, "..") && filepath.Clean(f.Name) != f.Name {
				t.Fatalf("path %q", f.Name)
			}
		}
	})
}

func TestPick(t *testing.T) {
	m := &release.Manifest{Variants: []release.Variant{
		{Engine: "tflite", Accelerator: "edgetpu", File: release.File{Name: "tpu"}},
		{Engine: "tensorrt", Arch: "arm64", File: release.File{Name: "trt"}},
		{Engine: "tflite", MinRAM: 2 << 30, File: release.File{Name: "big"}},
		{Engine: "tflite", File: release.File{Name: "small"}},
	}}
	cpu := []wire.HelloDevice{{Engine: "tflite", Accelerator: "cpu"}}
	tpu := append(cpu, wire.HelloDevice{Engine: "tflite", Accelerator: "edgetpu"})
	for name, c := range map[string]struct {
		board    release.Board
		want     string
		refusals int
	}{
		"tpu":        {release.Board{Arch: "arm64", Devices: tpu}, "tpu", 0},
		"big board":  {release.Board{Arch: "amd64", RAM: 4 << 30, Devices: cpu}, "big", 2},
		"small":      {release.Board{Arch: "arm64", RAM: 1 << 30, Devices: cpu}, "small", 3},
		"no engines": {release.Board{Arch: "arm64"}, "", 4},
	} {
		v, refusals, err := release.Pick(m, c.board)
		if v.File.Name != c.want || len(refusals) != c.refusals || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %q, %v, %v", name, v.File.Name, refusals, err)
		}
	}
	m.Variants = m.Variants[:1]
	_, _, err := release.Pick(m, release.Board{Arch: "arm64", Devices: cpu})
	wantCode(t, err, hal.CodeAccel)
	_, _, err = release.Pick(&release.Manifest{Config: &release.File{}}, release.Board{Arch: "arm64", Devices: cpu})
	wantCode(t, err, hal.CodeManifest)
}

// A file that needs a newer library than the board has is passed over; versions are
// numbers, and what a board does not say is not held against it.
func TestPickRuntime(t *testing.T) {
	m := &release.Manifest{Variants: []release.Variant{
		{Engine: "tflite", MinRuntime: "2.17", File: release.File{Name: "new"}},
		{Engine: "tflite", File: release.File{Name: "old"}},
	}}
	for runtime, want := range map[string]string{
		"tflite 2.17.1": "new", "tflite 2.17": "new", "tflite 2.17.0": "new", "tflite 2.16.9": "old", "tflite 2.9": "old", "tflite 2.100": "new",
		"tflite 3": "new", "tflite 2": "old", "2.18": "new", "tflite 2.17.1-rc0": "new", "tflite 2.16.0+x": "old", "": "new", "tflite": "new", "tflite dev": "new",
	} {
		board := release.BoardOf(wire.Hello{Arch: "arm64", Accelerators: []wire.HelloDevice{{Engine: "tflite", Accelerator: "cpu"}}})
		if runtime != "" {
			board.Runtimes = map[string]string{"tflite": runtime, "onnx": "onnxruntime 1.0"}
		}
		v, refusals, err := release.Pick(m, board)
		if err != nil || v.File.Name != want || len(refusals) > 1 || len(refusals) == 1 && refusals[0].Code != hal.CodeRuntime {
			t.Errorf("%q: got %q, %v, %v", runtime, v.File.Name, refusals, err)
		}
	}
	m.Variants = m.Variants[:1]
	_, _, err := release.Pick(m, release.BoardOf(wire.Hello{Accelerators: []wire.HelloDevice{{Engine: "tflite", Accelerator: "cpu"}}, Runtimes: map[string]string{"tflite": "tflite 2.1"}}))
	wantCode(t, err, hal.CodeRuntime)
}

// A variant's own tolerance goes before a sample's.
func TestTolerance(t *testing.T) {
	g := release.Golden{Tolerance: 0.1}
	if a, b := (release.Variant{}).ToleranceOf(g), (release.Variant{Tolerance: 0.3}).ToleranceOf(g); a != 0.1 || b != 0.3 {
		t.Errorf("got %v and %v", a, b)
	}
}

// The sibling is found by its name among several, and is one of the files that a
// board needs.
func TestSibling(t *testing.T) {
	tpu := string(haltest.CustomModel("edgetpu-custom-op"))
	m, _, err := release.Build(folder(t, map[string]string{"m_edgetpu.tflite": tpu, "m.tflite": "m", "other.tflite": "o"}), release.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	v := m.Variants[1]
	if s := m.SiblingOf(v); v.Accelerator != "edgetpu" || s == nil || s.File.Name != "m.tflite" || m.SiblingOf(*s) != nil {
		t.Fatalf("variant %+v has the sibling %+v", v, s)
	}
	if files := m.FilesOf(v); len(files) != 2 || files[0].Name != "m_edgetpu.tflite" || files[1].Name != "m.tflite" {
		t.Errorf("files %v", files)
	}
	if again, err := release.Load(m.Canonical(), m.Digest()); err != nil || again.Variants[1].Sibling != "m.tflite" {
		t.Errorf("read back: %+v, %v", again, err)
	}
	// A file's name alone makes it no Edge TPU model.
	m, _, err = release.Build(folder(t, map[string]string{"m_edgetpu.tflite": string(haltest.AddModel())}), release.Defaults{})
	if err != nil || m.Variants[0].Accelerator != "" {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestCompare(t *testing.T) {
	f32 := func(v ...float32) []byte {
		var b []byte
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
		return b
	}
	nan := float32(math.NaN())
	float := &hal.TensorInfo{Name: "p", Type: hal.Float32}
	quant := &hal.TensorInfo{Name: "q", Type: hal.Uint8, Quant: hal.Quant{Scale: []float32{0.5}, ZeroPoint: []int32{3}}}
	for name, c := range map[string]struct {
		info      *hal.TensorInfo
		got, want []byte
		tol       float64
		code      hal.Code
	}{
		"same":           {float, f32(1, 2), f32(1, 2), 0, ""},
		"near":           {float, f32(1.05), f32(1), 0.1, ""},
		"far":            {float, f32(1, 1.2), f32(1, 1), 0.1, hal.CodeGolden},
		"NaN":            {float, f32(nan), f32(1), 100, hal.CodeGolden},
		"NaN expected":   {float, f32(nan), f32(nan), 0, ""},
		"both infinite":  {float, f32(float32(math.Inf(1))), f32(float32(math.Inf(1))), 0, ""},
		"size":           {float, f32(1), f32(1, 2), 0, hal.CodeShape},
		"quantised near": {quant, []byte{5}, []byte{4}, 0.5, ""},
		"quantised far":  {quant, []byte{6}, []byte{4}, 0.5, hal.CodeGolden},
		"text":           {&hal.TensorInfo{Type: hal.String}, []byte("a"), []byte("a"), 0, hal.CodeShape},
	} {
		err := release.Compare(0, hal.Tensor{Info: c.info, Data: c.got}, c.want, c.tol)
		if hal.CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %q", name, err, c.code)
		}
	}
	wantCode(t, release.CompareLabel("cat", "parrot"), hal.CodeGolden)
}

// What the agent has in memory as a whole is bounded more closely than models are.
func TestBounds(t *testing.T) {
	file := func(name string, length int64) release.File {
		blocks := (length + wire.BlockSize - 1) / wire.BlockSize
		return release.File{Name: name, SHA256: strings.Repeat("ab", 32), Length: length, Blocks: make([]byte, 32*blocks)}
	}
	model := release.Variant{Engine: "tflite", File: release.File{Name: "m.tflite", SHA256: strings.Repeat("cd", 32), Length: 1, Blocks: make([]byte, 32)}}
	for name, c := range map[string]struct {
		length int64
		put    func(*release.Manifest, release.File)
	}{
		"labels": {release.MaxLabels, func(m *release.Manifest, f release.File) { m.Labels = &f }},
		"sample": {release.MaxSample, func(m *release.Manifest, f release.File) {
			m.Golden = []release.Golden{{Inputs: []release.File{f}, Label: "x"}}
		}},
	} {
		for over := range int64(2) {
			m := release.Manifest{V: 1, Name: "birds", Version: "1.0.0", Variants: []release.Variant{model}}
			c.put(&m, file(name, c.length+over))
			_, err := release.Parse(m.Canonical())
			if over == 0 && err != nil || over == 1 && hal.CodeOf(err) != hal.CodeLength {
				t.Errorf("%s, %d over its limit: %v", name, over, err)
			}
		}
	}
}
