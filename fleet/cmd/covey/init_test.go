package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covey-edge/covey/fleet/release"
	"github.com/covey-edge/covey/hal/haltest"
)

// TestMain lets the test binary be the stage that shuts runners in.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "stage" {
		fmt.Fprintln(os.Stderr, stage(os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// A maker is somebody with models and pictures, in a folder of their own.
type maker struct {
	t   *testing.T
	dir string
}

func newMaker(t *testing.T) *maker {
	t.Setenv("PATH", filepath.Dir(haltest.Program(t, "covey-runner-tflite"))+":"+os.Getenv("PATH"))
	return &maker{t, t.TempDir()}
}

func (m *maker) at(name string) string { return filepath.Join(m.dir, name) }

// put writes a file, the bytes of one of the real ones.
func (m *maker) put(name, real string) {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(haltest.Models(m.t), real))
	if err != nil {
		m.t.Fatal(err)
	}
	m.write(name, b)
}

func (m *maker) write(name string, b []byte) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.at(name)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.at(name), b, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// covey runs the program with DIR in its arguments replaced.
func (m *maker) covey(line string) (code int, out, err string) {
	var o, e bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &o, err: &e, now: time.Now, env: os.Getenv}
	code = a.run(m.t.Context(), strings.Fields(strings.ReplaceAll(line, "DIR", m.dir)))
	return code, o.String(), e.String()
}

func (m *maker) must(line string) string {
	m.t.Helper()
	code, out, err := m.covey(line)
	if code != 0 {
		m.t.Fatalf("covey %s: exit %d: %s%s", line, code, out, err)
	}
	return out
}

// refused wants an exit code, and words in what is said.
func (m *maker) refused(line string, want int, words ...string) {
	m.t.Helper()
	code, out, err := m.covey(line)
	if code != want {
		m.t.Errorf("covey %s: exit %d, want %d: %s%s", line, code, want, out, err)
	}
	for _, w := range words {
		if !strings.Contains(err, w) {
			m.t.Errorf("covey %s does not say %q: %s", line, w, err)
		}
	}
}

func (m *maker) begun(line string) (b begun) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(m.must(line+" --json")), &b); err != nil {
		m.t.Fatal(err)
	}
	return b
}

func (m *maker) manifest(folder string) *release.Manifest {
	m.t.Helper()
	r, _, err := release.Build(m.at(folder), release.Defaults{})
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}

const birds = "release init DIR/mobilenet.tflite --labels DIR/labels.txt "

func birdMaker(t *testing.T) *maker {
	m := newMaker(t)
	m.put("mobilenet.tflite", "label_image/mobilenet_quant_v1_224.tflite")
	m.put("labels.txt", "label_image/labels.txt")
	m.put("pictures/peacock/garden.png", "label_image/peacock.png")
	return m
}

// A bare model and a picture in a folder of its label become a release that holds, in
// its source form and in its final one, and that a run of its samples proves.
func TestInitKnownAnswer(t *testing.T) {
	m := birdMaker(t)
	b := m.begun(birds + "--samples DIR/pictures --name birds --out DIR/birds")
	if b.Release != "birds@1.0.0" || b.Kind != "classify" || b.Labels != 1001 || b.Golden != 1 || b.Vouched != 1 || len(b.Warnings) != 0 {
		t.Errorf("said %+v", b)
	}
	r := m.manifest("birds")
	if g := r.Golden[0]; g.Label != "peacock" || len(g.Outputs) != 1 || g.Tolerance != 16./256 || g.Inputs[0].Length != 224*224*3 {
		t.Errorf("golden %+v", g)
	}
	if v := r.Variants[0]; v.Quantisation != "uint8" || v.Engine != "tflite" || r.Result.Labels != 1001 || r.Digest() != b.Digest {
		t.Errorf("manifest %+v", r)
	}
	if text, err := os.ReadFile(m.at("birds/release.json")); err != nil || bytes.Contains(text, []byte("sha256")) || !bytes.Contains(text, []byte("[1, 224, 224, 3]")) {
		t.Errorf("%v, not for people: %s", err, text)
	}
	if out := m.must("release check DIR/birds --run"); !strings.Contains(out, "1 golden sample answered") {
		t.Error(out)
	}
	m.must("release build DIR/birds --out DIR/final")
	m.must("release check DIR/final --run")
	if final, err := os.ReadFile(m.at("final/release.json")); err != nil || !bytes.Equal(final, r.Canonical()) {
		t.Errorf("the final form is not the canonical one: %v", err)
	}
	m.refused("release build DIR/birds --out DIR/final", exitUsage, "is there already")
	m.refused(birds+"--out DIR/birds", exitUsage, "is there already", "--out")

	// What is changed later is noticed: a promise, a sample, a file.
	text, err := os.ReadFile(m.at("birds/release.json"))
	if err != nil {
		t.Fatal(err)
	}
	m.write("birds/release.json", bytes.Replace(text, []byte(`"labels": 1001`), []byte(`"labels": 91`), 1))
	m.refused("release check DIR/birds", exitUsage, "result says of its labels 91, and the model has 1001")
	m.write("birds/release.json", bytes.Replace(text, []byte(`"peacock"`), []byte(`"hen"`), 1))
	m.refused("release check DIR/birds --run", exitRefused, "E_GOLDEN", `top-1 "peacock" expected "hen"`)
	m.write("birds/release.json", text)
	m.write("birds/golden/00.out", make([]byte, 1001))
	m.refused("release check DIR/birds --run", exitRefused, "E_GOLDEN", "golden sample 0")
	m.write("final/labels.txt", []byte("crow"))
	m.refused("release check DIR/final", exitUsage, "E_HASH", "labels.txt")
}

// A model's mistake does not become what is right.
func TestInitWrongAnswer(t *testing.T) {
	m := birdMaker(t)
	m.put("pictures/hen/not.png", "label_image/peacock.png")
	m.refused(birds+"--samples DIR/pictures --out DIR/x", exitRefused, `pictures/hen/not.png is "peacock" (0.`, "--force")
	if _, err := os.Stat(m.at("x")); err == nil {
		t.Error("something was made all the same")
	}
	b := m.begun(birds + "--samples DIR/pictures --out DIR/x --force")
	if b.Golden != 1 || b.Vouched != 1 || len(b.Wrong) != 1 || len(b.Warnings) != 1 {
		t.Errorf("with --force: %+v", b)
	}
	m.put("other/dodo/x.png", "label_image/peacock.png")
	m.refused(birds+"--samples DIR/other --out DIR/y", exitUsage, `the model has no label "dodo"`)
	m.write("none/readme.txt", nil)
	m.refused(birds+"--samples DIR/none --out DIR/y", exitUsage, "no pictures in")
	m.write("broken/peacock/x.png", []byte("no picture"))
	m.refused(birds+"--samples DIR/broken --out DIR/y", exitFailed, "E_IMAGE", "broken/peacock/x.png")
}

// What nobody gave the answer of is said loudly.
func TestInitUnlabelled(t *testing.T) {
	m := birdMaker(t)
	m.put("pictures/some.jpg", "ssd/example.jpg")
	code, out, said := m.covey(birds + "--samples DIR/pictures --out DIR/x")
	if code != 0 || !strings.Contains(said, "warning: 1 golden sample of 2 without an answer from you") || !strings.Contains(out, "2, 1 of them with your answer") {
		t.Errorf("exit %d: %s%s", code, out, said)
	}
	if g := m.manifest("x").Golden; len(g) != 2 || g[0].Label != "peacock" || g[1].Label != "" || len(g[1].Outputs) != 1 {
		t.Errorf("golden %+v", g)
	}
	b := m.begun(birds + "--out DIR/y") // noise
	if b.Golden != 1 || b.Vouched != 0 || len(b.Warnings) != 1 || m.manifest("y").Golden[0].Tolerance != 2*16./256 {
		t.Errorf("made up: %+v", b)
	}
	m.must("release check DIR/y --run")
	if b := m.begun(birds + "--out DIR/z --no-golden"); b.Golden != 0 || len(b.Warnings) != 1 || !strings.Contains(b.Warnings[0], "no golden samples") {
		t.Errorf("none: %+v", b)
	}
}

// Detections change places from processor to processor: their samples hold the label.
// An input may be bytes, and there are not more samples than the model is large.
func TestInitOthers(t *testing.T) {
	m := newMaker(t)
	m.put("ssd.tflite", "ssd/detect.tflite")
	m.put("map.txt", "ssd/labelmap.txt")
	m.put("pictures/person/x.jpg", "ssd/example.jpg")
	code, _, said := m.covey("release init DIR/ssd.tflite --labels DIR/map.txt --samples DIR/pictures --out DIR/ssd")
	if code == 0 {
		if g := m.manifest("ssd").Golden[0]; g.Label != "person" || len(g.Outputs) != 0 || g.Tolerance != 0 {
			t.Errorf("golden %+v", g)
		}
	} else {
		t.Error(said)
	}
	m.put("wake.tflite", "audio/okay_nabu.tflite")
	m.refused("release init DIR/wake.tflite --samples DIR/pictures --out DIR/wake", exitUsage, "raw numbers, which have no label")
	m.write("add.tflite", haltest.AddModel())
	m.refused("release init DIR/add.tflite --samples DIR/pictures --out DIR/add", exitUsage, "pictures are no input of this model", ".bin")
	for i := range 20 {
		m.write(fmt.Sprintf("tensors/%02d.bin", i), bytes.Repeat([]byte{byte(i)}, 120))
	}
	b := m.begun("release init DIR/wake.tflite --samples DIR/tensors --out DIR/wake")
	if b.Golden != maxSamples || b.LeftOver != 4 || b.Kind != "raw" || m.manifest("wake").Variants[0].Quantisation != "int8" {
		t.Errorf("said %+v", b)
	}
	m.must("release check DIR/wake --run")
	m.write("tensors/20.bin", []byte("short"))
	m.write("short/x.bin", []byte("short"))
	m.refused("release init DIR/wake.tflite --samples DIR/short --out DIR/wake2", exitFailed, "input 0 has 5 bytes, the model takes 120")
	m.write("page.tflite", []byte("<html>"))
	m.refused("release init DIR/page.tflite", exitUsage, "E_MODEL")
	m.refused("release init DIR/none.tflite", exitUsage, "none.tflite")

	m.put("two/speech.onnx", "onnx/silero_vad_16k_op15.onnx")
	m.refused("release init DIR/two", exitFailed, "E_SHAPE", "--no-golden")
	if b := m.begun("release init DIR/two --no-golden --version 2.0.0"); b.Folder != m.at("two") || m.manifest("two").Variants[0].Ops == 0 {
		t.Errorf("in its own folder: %+v", b)
	}
}

func TestInitWithoutEngine(t *testing.T) {
	m := birdMaker(t)
	t.Setenv("PATH", t.TempDir())
	m.refused(birds+"--samples DIR/pictures --out DIR/x", exitUsage, "no program covey-runner-tflite", "--no-golden")
	m.must(birds + "--no-golden --out DIR/x")
}

// Folders cannot be called all that labels can.
func TestSame(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"peacock", "peacock", true}, {"Bernese mountain dog", "bernese_mountain-dog", true}, {"goldfish, Carassius auratus", "goldfish carassius auratus", true},
		{"hen", "hens", false}, {"dog", "", false}, {"", "dog", false},
	} {
		if same(c.a, c.b) != c.want {
			t.Errorf("%q and %q: want %v", c.a, c.b, c.want)
		}
	}
}
