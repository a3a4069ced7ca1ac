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

	"github.com/covey-edge/covey/hal/runner"
)

// makePackages runs scripts/package of a tree and gives back the folder of what it made.
// With COVEY_PACKAGES they are packed as those that people get, which takes longer.
func makePackages(t *testing.T, tree, version string, env []string, args ...string) string {
	t.Helper()
	dist := t.TempDir()
	cmd := exec.Command(tree+"/scripts/package", args...)
	cmd.Env = append(os.Environ(), "COVEY_DIST="+dist, "COVEY_VERSION="+version, "SOURCE_DATE_EPOCH=1750000000")
	if os.Getenv("COVEY_PACKAGES") == "" {
		cmd.Env = append(cmd.Env, "COVEY_COMPRESSION=gzip")
	}
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
	checkAddon(t, one, arches)
}

// checkAddon makes the add-on of the packages and looks whether its container could be
// built: what is copied is there, and what is started is in the package.
func checkAddon(t *testing.T, dist string, arches []string) {
	t.Helper()
	cmd := exec.Command("./addon")
	cmd.Env = append(os.Environ(), "COVEY_DIST="+dist)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("scripts/addon: %v\n%s", err, out)
	}
	folder := dist + "/homeassistant-addon/covey/"
	config, err := os.ReadFile(folder + "config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dockerfile, err := os.ReadFile(folder + "Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{"amd64": "amd64", "arm64": "aarch64", "armhf": "armv7"}
	var list []string
	for _, arch := range []string{"amd64", "arm64", "armhf"} {
		if slices.Contains(arches, arch) {
			list = append(list, names[arch])
		}
	}
	for _, want := range []string{"version: \"1.2.3\"\n", "arch: [" + strings.Join(list, ", ") + "]\n"} {
		if !strings.Contains(string(config), want) {
			t.Errorf("config.yaml has no %q", want)
		}
	}
	copied := regexp.MustCompile(`(?m)^COPY (\S+) /tmp/covey-agent\.deb$`).FindStringSubmatch(string(dockerfile))
	started := regexp.MustCompile(`(?m)^ENTRYPOINT \["(\S+)", "addon"\]$`).FindStringSubmatch(string(dockerfile))
	if copied == nil || started == nil {
		t.Fatalf("the Dockerfile copies %v and starts %v", copied, started)
	}
	for _, name := range list {
		deb := folder + strings.ReplaceAll(copied[1], "${BUILD_ARCH}", name)
		if out, err := exec.Command("dpkg-deb", "--contents", deb).CombinedOutput(); err != nil || !strings.Contains(string(out), "."+started[1]+" ->") {
			t.Errorf("%s: %v, or no %s in it", deb, err, started[1])
		}
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

// TestPackagesAreClean lets Debian's own judge read all packages. Only what the overrides
// in firmware/packages explain may be wrong.
func TestPackagesAreClean(t *testing.T) {
	if os.Getenv("COVEY_PACKAGES") == "" {
		t.Skip("takes minutes: COVEY_PACKAGES=1, as scripts/nightly has it")
	}
	lintian, err := exec.LookPath("lintian")
	if err != nil {
		t.Skip("no lintian here (apt-get install lintian)")
	}
	debs, err := filepath.Glob(makePackages(t, "..", "1.2.3", nil, "amd64", "arm64") + "/*_1.2.3_*.deb")
	if err != nil || len(debs) != 8 {
		t.Fatalf("%d packages, %v", len(debs), err)
	}
	out, err := exec.Command(lintian, append([]string{"--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0"}, debs...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestPackageOn32Bits runs MobileNet by the runner of the package for armhf, under
// emulation, and by this machine's.
func TestPackageOn32Bits(t *testing.T) {
	if os.Getenv("COVEY_PACKAGES") == "" {
		t.Skip("takes minutes: COVEY_PACKAGES=1, as scripts/nightly has it")
	}
	qemu, err := exec.LookPath("qemu-arm-static")
	if err != nil {
		t.Skip("no qemu-arm-static here (apt-get install qemu-user-static)")
	}
	if _, err := exec.LookPath("arm-linux-gnueabihf-gcc"); err != nil {
		t.Skip("no cross compiler here (apt-get install gcc-arm-linux-gnueabihf libc6-dev-armhf-cross libstdc++6-armhf-cross)")
	}
	root := t.TempDir()
	deb := makePackages(t, "..", "1.2.3", nil, "--only", "covey-agent", "armhf") + "/covey-agent_armhf.deb"
	if out, err := exec.Command("dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command(qemu, root+"/usr/bin/covey-agent", "version").CombinedOutput(); err != nil || string(out) != "covey-agent 1.2.3\n" {
		t.Errorf("covey-agent version: %v: %s", err, out)
	}
	emulated := runner.New(runner.Config{
		Name: "tflite", Program: root + "/usr/lib/covey/covey-runner-tflite",
		Stage: []string{"/bin/sh", "-c", `exec "$QEMU" -L /usr/arm-linux-gnueabihf "$2"`}, Env: []string{"QEMU=" + qemu},
	})
	here := classify(t, runner.New(runner.Config{Name: "tflite", Program: os.Getenv("COVEY_BIN") + "/covey-runner-tflite"}))
	there := classify(t, emulated)
	far := 0
	for i := range here {
		far = max(far, int(here[i])-int(there[i]), int(there[i])-int(here[i]))
	}
	if len(here) == 0 || len(here) != len(there) || far > 16 {
		t.Errorf("MobileNet gives %d scores on armhf and %d here, up to %d of 256 apart", len(there), len(here), far)
	}
	t.Logf("MobileNet on armhf differs by at most %d of 256", far)
}
