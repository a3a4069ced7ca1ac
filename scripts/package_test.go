package scripts

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// makePackages runs scripts/package of a tree and gives back the folder of what it made.
func makePackages(t *testing.T, tree, version string, env []string, args ...string) string {
	t.Helper()
	dist := t.TempDir()
	cmd := exec.Command(tree+"/scripts/package", args...)
	cmd.Env = append(os.Environ(), "COVEY_DIST="+dist, "COVEY_VERSION="+version, "SOURCE_DATE_EPOCH=1750000000")
	cmd.Env = append(cmd.Env, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("scripts/package %v: %v\n%s", args, err, out)
	}
	return dist
}

// TestPackagesAreReproducible builds the agent's packages twice, from two copies of
// the tree in folders with other names: they are the same, byte for byte.
func TestPackagesAreReproducible(t *testing.T) {
	arches := []string{"amd64"}
	for arch, cc := range map[string]string{"arm64": "aarch64-linux-gnu-gcc", "armhf": "arm-linux-gnueabihf-gcc"} {
		if _, err := exec.LookPath(cc); err == nil {
			arches = append(arches, arch)
		} else {
			t.Logf("%s is left out: there is no %s", arch, cc)
		}
	}
	args := append([]string{"--only", "covey-agent"}, arches...)
	one := makePackages(t, copyTree(t, "one"), "1.2.3", nil, args...)
	two := makePackages(t, copyTree(t, "another/folder/far-below"), "1.2.3", nil, args...)
	files := listing(t, one)
	if want := 2*len(arches) + 1; len(files) != want {
		t.Errorf("%d files, want %d: %v", len(files), want, files)
	}
	for name, sum := range files {
		if other := listing(t, two)[name]; other != sum {
			t.Errorf("%s: %s and %s", name, sum, other)
		}
	}
	checkSums(t, one)
	for _, arch := range arches {
		checkContents(t, one+"/covey-agent_1.2.3_"+arch+".deb")
		checkSBOM(t, one+"/covey-agent_1.2.3_"+arch+".cdx.json")
	}
}

// copyTree is a copy of what git sees of the tree, in a folder below a new one.
func copyTree(t *testing.T, name string) string {
	t.Helper()
	list, err := exec.Command("git", "-C", "..", "ls-files", "-z", "-co", "--exclude-standard").Output()
	if err != nil {
		t.Skipf("no git here: %v", err)
	}
	to := filepath.Join(t.TempDir(), name)
	for file := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		from := filepath.Join("..", file)
		info, err := os.Lstat(from)
		if err != nil || !info.Mode().IsRegular() {
			continue // removed, and git not yet told
		}
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, file), text, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// listing is the regular files in a folder with their sha256.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, path))
		found[path] = fmt.Sprintf("%x", sha256.Sum256(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// checkSums holds SHA256SUMS against the files beside it.
func checkSums(t *testing.T, dist string) {
	t.Helper()
	cmd := exec.Command("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
	cmd.Dir = dist
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("SHA256SUMS: %v\n%s", err, out)
	}
	sums, err := os.ReadFile(dist + "/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	if lines, files := bytes.Count(sums, []byte("\n")), len(listing(t, dist))-1; lines != files {
		t.Errorf("SHA256SUMS has %d lines for %d files", lines, files)
	}
}

// checkContents looks for what a board needs of the package, and who may write it.
func checkContents(t *testing.T, deb string) {
	t.Helper()
	out, err := exec.Command("dpkg-deb", "--contents", deb).Output()
	if err != nil {
		t.Skipf("no dpkg-deb: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, " root/root ") || regexp.MustCompile(`^.(....w|.......w|..s|.....s)`).MatchString(line) {
			t.Errorf("%s: %s", filepath.Base(deb), line)
		}
	}
	want := []string{
		"./usr/bin/covey-agent -> ../lib/covey/covey-agent", "./usr/lib/covey/covey-agent", "./usr/lib/covey/covey-runner-tflite",
		"./usr/lib/covey/covey-runner-jpeg", "./usr/lib/covey/lib/libtensorflowlite_c.so", "./usr/lib/sysusers.d/covey-agent.conf",
		"./usr/lib/tmpfiles.d/covey-agent.conf", "./usr/share/man/man1/covey-agent.1.gz", "./usr/share/doc/covey-agent/copyright",
		"./usr/share/doc/covey-agent/licences.gz", "./usr/share/doc/covey-agent/sbom.cdx.json", "./usr/share/doc/covey-agent/examples/agent.yaml",
		"./usr/share/bash-completion/completions/covey-agent", "./usr/share/zsh/vendor-completions/_covey-agent",
		"./usr/share/fish/vendor_completions.d/covey-agent.fish",
	}
	for dir, to := range map[string]string{"systemd": "systemd/system", "udev": "udev/rules.d"} {
		files, err := filepath.Glob("../firmware/" + dir + "/*.*")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			want = append(want, "./usr/lib/"+to+"/"+filepath.Base(f))
		}
	}
	for _, path := range want {
		if !strings.Contains(string(out), " "+path+"\n") {
			t.Errorf("%s has no %s", filepath.Base(deb), path)
		}
	}
}

// checkSBOM reads the list of what a package is made of: everything has a version and
// a licence, and every program and library a hash.
func checkSBOM(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b struct {
		BOMFormat, SpecVersion, SerialNumber string
		Components                           []struct {
			Type, Name, Version, PURL string
			Hashes, Licenses          []any
		}
	}
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range b.Components {
		names = append(names, c.Name)
		module := strings.HasPrefix(c.PURL, "pkg:golang/")
		if len(c.Licenses) == 0 || module && c.Version == "" || !module && len(c.Hashes) == 0 {
			t.Errorf("%s: %+v", filepath.Base(path), c)
		}
	}
	for _, want := range []string{"covey-agent", "covey-runner-tflite", "tensorflow-lite", "std", "go.etcd.io/bbolt", "github.com/mattn/go-tflite"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s does not name %s", filepath.Base(path), want)
		}
	}
	if b.BOMFormat != "CycloneDX" || b.SpecVersion != "1.6" || !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(b.SerialNumber) {
		t.Errorf("%s: %s %s %s", filepath.Base(path), b.BOMFormat, b.SpecVersion, b.SerialNumber)
	}
}
