package haltest

import (
	"os"
	"path/filepath"
	"testing"
)

// Models is the folder of real models and pictures, as scripts/setup leaves it:
// label_image/mobilenet_quant_v1_224.tflite, ssd/detect.tflite, ….
func Models(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("COVEY_MODELS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "covey", "models")
	}
	if _, err := os.Stat(filepath.Join(dir, ".complete")); err != nil {
		t.Fatalf("no models in %s: run ./scripts/setup", dir)
	}
	return dir
}

// Program is the path of a program that scripts/setup built into bin/.
func Program(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("COVEY_BIN")
	if dir == "" {
		dir = filepath.Join(root(t), "bin")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no program %s: run ./scripts/setup", path)
	}
	return path
}

// root is the folder with go.mod above the test.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above the test")
	return ""
}
