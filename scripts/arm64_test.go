// Package scripts tests what the scripts beside it make, and that the documents
// say what the programs do.
package scripts

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/haltest"
	"github.com/covey-edge/covey/hal/runner"
	"github.com/covey-edge/covey/hal/vision"
)

// maxAgent is the most bytes of the stripped agent: 13 MB of its own, page and setup
// included, and the 2 MB that the verifier of signatures brings. It grows in steps of 64 KiB.
const maxAgent = 15_500_000

func TestArm64(t *testing.T) {
	image := buildImage(t)
	t.Run("dockerfile", func(t *testing.T) { checkDockerfile(t, image) })
	t.Run("files", func(t *testing.T) { checkFiles(t, image) })
	t.Run("programs", func(t *testing.T) { checkPrograms(t, image) })
	t.Run("onnx", func(t *testing.T) { checkONNX(t, image) })
}

// checkDockerfile holds Dockerfile.arm64 against scripts/arm64: it builds with that
// script alone, and every path of the final stage is one that the script makes.
func checkDockerfile(t *testing.T, image string) {
	steps := dockerfile(t)
	var runs []string
	for _, s := range steps {
		if s[0] == "RUN" {
			runs = append(runs, s[1])
		}
	}
	if len(runs) != 2 || !strings.HasPrefix(runs[0], "apt-get update && apt-get install") || runs[1] != "scripts/arm64 --image /image" {
		t.Errorf("the build stage does more than installing compilers and running scripts/arm64: %q", runs)
	}

	final := steps[slices.IndexFunc(steps, func(s [2]string) bool {
		return s[0] == "FROM" && strings.Contains(s[1], "--platform=linux/arm64")
	}):]
	copied := regexp.MustCompile(`--from=build .*?/image(/\S+) (/\S+)$`)
	for _, s := range final {
		switch s[0] {
		case "COPY":
			m := copied.FindStringSubmatch(s[1])
			if m == nil || m[1] != m[2] {
				t.Errorf("COPY %s: want /image/x to /x", s[1])
			} else if _, err := os.Stat(image + m[1]); err != nil {
				t.Errorf("COPY %s: scripts/arm64 makes no such folder", s[1])
			}
		case "ENTRYPOINT":
			program := strings.Trim(s[1], `[]"`)
			if _, err := os.Stat(image + program); err != nil {
				t.Errorf("ENTRYPOINT %s: not in the image", program)
			}
		case "RUN":
			t.Errorf("RUN %s: the final stage would need emulation", s[1])
		}
	}
	for _, want := range [][2]string{{"USER", "65532:65532"}, {"VOLUME", "/var/lib/covey"}} {
		if !slices.Contains(final, want) {
			t.Errorf("the final stage lacks %s %s", want[0], want[1])
		}
	}
}

// dockerfile is the instructions of Dockerfile.arm64 with their arguments.
func dockerfile(t *testing.T) (steps [][2]string) {
	t.Helper()
	text, err := os.ReadFile("../Dockerfile.arm64")
	if err != nil {
		t.Fatal(err)
	}
	joined := strings.ReplaceAll(string(text), "\\\n", " ")
	for line := range strings.Lines(joined) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		steps = append(steps, [2]string{word, strings.TrimSpace(rest)})
	}
	return steps
}

// checkFiles looks at what scripts/arm64 made: the right machine, no library that
// the image lacks, sizes.
func checkFiles(t *testing.T, image string) {
	agent := image + "/opt/covey/covey-agent"
	runner := image + "/opt/covey/covey-runner-tflite"
	runtime := image + "/opt/covey/lib/libtensorflowlite_c.so"

	if libs := needed(t, agent); len(libs) > 0 {
		t.Errorf("the agent needs %v: it must be static", libs)
	}
	if info, err := os.Stat(agent); err != nil || info.Size() > maxAgent {
		t.Errorf("the agent is %d bytes, limit %d", info.Size(), maxAgent)
	} else {
		t.Logf("agent: %.1f MB", float64(info.Size())/1e6)
	}

	onnx, onnxruntime := image+"/opt/covey/covey-runner-onnx", image+"/opt/covey/lib/libonnxruntime.so"
	for _, file := range []string{runner, runtime, onnx, onnxruntime, image + "/lib/libstdc++.so.6"} {
		for _, lib := range needed(t, file) {
			_, beside := os.Stat(image + "/opt/covey/lib/" + lib)
			_, under := os.Stat(image + "/lib/" + lib)
			if beside != nil && under != nil {
				t.Errorf("%s needs %s, which the image does not have", filepath.Base(file), lib)
			}
		}
	}
	if info, err := os.Stat(image + "/etc/ssl/certs/ca-certificates.crt"); err != nil || info.Size() == 0 {
		t.Errorf("the image has no CA certificates: %v", err)
	}
	if !slices.Contains(needed(t, runner), "libtensorflowlite_c.so") {
		t.Error("the runner is not linked with the runtime")
	}
	if path := runpath(t, runner); !strings.Contains(path, "$ORIGIN/lib") {
		t.Errorf("the runner looks for its runtime in %q, not beside itself", path)
	}
}

// checkPrograms starts the agent and the TFLite runner under emulation.
func checkPrograms(t *testing.T, image string) {
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Skip("qemu-aarch64-static is not here (apt-get install qemu-user-static)")
	}
	agent := image + "/opt/covey/covey-agent"
	if out, err := exec.Command(qemu, "-L", image, agent, "version").CombinedOutput(); err != nil {
		t.Errorf("covey-agent version: %v: %s", err, out)
	}

	// The real engine starts the runner, with the emulator where the stage stands.
	emulated := runner.New(runner.Config{
		Name: "tflite", Program: image + "/opt/covey/covey-runner-tflite",
		Stage: []string{"/bin/sh", "-c", `exec "$QEMU" -L "$SYSROOT" "$2"`},
		Env:   []string{"QEMU=" + qemu, "SYSROOT=" + image},
	})
	devices, diagnoses := emulated.Probe(t.Context())
	if len(devices) == 0 || devices[0].Accelerator != hal.XNNPACK || !strings.Contains(devices[0].Runtime, "2.17.1") {
		t.Fatalf("the runner's devices: %+v, %+v; want xnnpack of TFLite 2.17.1", devices, diagnoses)
	}

	native := os.Getenv("COVEY_BIN") + "/covey-runner-tflite"
	if _, err := os.Stat(native); err != nil {
		t.Skip("no programs to compare with: . scripts/env && scripts/setup")
	}
	here := classify(t, runner.New(runner.Config{Name: "tflite", Program: native}))
	there := classify(t, emulated)
	far := 0
	for i := range here {
		far = max(far, int(here[i])-int(there[i]), int(there[i])-int(here[i]))
	}
	// Kernels of two processors round differently; more than this is another model.
	if len(here) == 0 || len(here) != len(there) || far > 16 {
		t.Errorf("MobileNet gives %d scores on arm64 and %d here, up to %d of 256 apart", len(there), len(here), far)
	}
	t.Logf("MobileNet on arm64 differs by at most %d of 256", far)
}

// checkONNX runs a model of ONNX under emulation and here: what is made of exact
// numbers is exactly the same.
func checkONNX(t *testing.T, image string) {
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Skip("qemu-aarch64-static is not here (apt-get install qemu-user-static)")
	}
	emulated := runner.New(runner.Config{
		Name: "onnx", Program: image + "/opt/covey/covey-runner-onnx",
		Stage: []string{"/bin/sh", "-c", `exec "$QEMU" -L "$SYSROOT" "$2"`},
		Env:   []string{"QEMU=" + qemu, "SYSROOT=" + image},
	})
	devices, diagnoses := emulated.Probe(t.Context())
	if len(devices) != 1 || devices[0].Accelerator != hal.CPU || !strings.Contains(devices[0].Runtime, "onnxruntime 1.24") {
		t.Fatalf("the runner's devices: %+v, %+v; want cpu of ONNX Runtime 1.24", devices, diagnoses)
	}
	path := filepath.Join(t.TempDir(), "gather.onnx")
	if err := os.WriteFile(path, haltest.FailingONNX(), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := emulated.Open(t.Context(), hal.Model{Name: "gather", Path: path}, hal.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range s.Input(0, 0) {
		s.Input(0, 0)[i] = byte(i)
	}
	s.Input(0, 1)[0] = 3
	if _, err := s.Run(0); err != nil {
		t.Fatal(err)
	}
	if got, want := s.Output(0, 0).Data, []byte{12, 13, 14, 15, 0, 1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("x[3], x[0] = %v, want %v", got, want)
	}
	s.Input(0, 1)[0] = 9
	if _, err := s.Run(0); hal.CodeOf(err) != hal.CodeInvoke {
		t.Errorf("x[9]: %v, want %s", err, hal.CodeInvoke)
	}
}

// classify runs MobileNet on the picture of a peacock, which it has to see, and returns its
// scores.
func classify(t *testing.T, e hal.Engine) []byte {
	t.Helper()
	folder := os.Getenv("COVEY_MODELS") + "/label_image/"
	s, err := e.Open(t.Context(), hal.Model{Name: "mobilenet", Path: folder + "mobilenet_quant_v1_224.tflite"}, hal.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	file, err := os.ReadFile(folder + "peacock.png")
	if err != nil {
		t.Fatal(err)
	}
	var f hal.Frame
	if err := vision.DecodePicture(file, &f); err != nil {
		t.Fatal(err)
	}
	filler, err := vision.NewFiller(s.Info().Inputs[0], vision.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := filler.Fill(s.Input(0, 0), &f); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Run(0); err != nil {
		t.Fatal(err)
	}
	scores := slices.Clone(s.Output(0, 0).Data)
	labels, err := os.ReadFile(folder + "labels.txt")
	if err != nil {
		t.Fatal(err)
	}
	if best := strings.Split(string(labels), "\n")[slices.Index(scores, slices.Max(scores))]; best != "peacock" {
		t.Errorf("%s sees a %s in a peacock", e.Name(), best)
	}
	return scores
}

// buildImage runs scripts/arm64 into a folder of the test's.
func buildImage(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("aarch64-linux-gnu-gcc"); err != nil {
		t.Skip("no cross compiler here (apt-get install gcc-aarch64-linux-gnu)")
	}
	out := t.TempDir()
	cmd := exec.Command("./arm64", "--image", out)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("scripts/arm64: %v\n%s", err, text)
	}
	return out
}

// needed is the libraries of an arm64 ELF file.
func needed(t *testing.T, path string) []string {
	t.Helper()
	f := open(t, path)
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	return libs
}

func runpath(t *testing.T, path string) string {
	t.Helper()
	f := open(t, path)
	defer f.Close()
	dirs, err := f.DynString(elf.DT_RUNPATH)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(dirs, ":")
}

func open(t *testing.T, path string) *elf.File {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != elf.EM_AARCH64 {
		t.Errorf("%s is for %v", path, f.Machine)
	}
	return f
}
