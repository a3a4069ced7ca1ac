// Command emulated runs the tests that need no C, built for arm64, under qemu: package
// by package, each in its own folder. What cannot run there is in cannot.txt, with the
// reason; an entry of it that passes is as much an error as a test that fails.
//
//	go run ./scripts/emulated [PACKAGE…]
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

//go:embed cannot.txt
var cannot string

const emulator = "qemu-aarch64-static"

// Limits of a package, and of one test that is known not to pass.
const packageTime, testTime = 10 * time.Minute, 90 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "emulated:", err)
		os.Exit(1)
	}
}

// A pkg is a package with tests.
type pkg struct {
	ImportPath, Dir           string
	Module                    struct{ Path string }
	TestGoFiles, XTestGoFiles []string
	cannot                    []entry
}

func run(ctx context.Context, patterns []string) error {
	entries, err := parse(cannot)
	if err != nil {
		return err
	}
	pkgs, err := list(ctx, patterns)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "emulated")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var all counts
	var faults []string
	for _, p := range pkgs {
		name := strings.TrimPrefix(p.ImportPath, p.Module.Path+"/")
		for _, e := range entries {
			if e.pkg == name {
				p.cannot = append(p.cannot, e)
			}
		}
		start := time.Now()
		c, f := p.test(ctx, filepath.Join(work, "a.test"))
		all = all.add(c)
		fmt.Printf("%-40s %3d passed %3d skipped %3d cannot %3d faults %5.0f s\n", name, c.passed, c.skipped, c.cannot, len(f), time.Since(start).Seconds())
		for _, text := range f {
			fmt.Println("  " + text)
			faults = append(faults, name+": "+text)
		}
	}
	fmt.Printf("arm64: %d packages, %d tests passed, %d skipped, %d known not to run there, %d faults\n", len(pkgs), all.passed, all.skipped, all.cannot, len(faults))
	if len(faults) > 0 {
		return errors.New("not as expected:\n  " + strings.Join(faults, "\n  "))
	}
	return ctx.Err()
}

// list is the packages that have tests, as arm64 sees them.
func list(ctx context.Context, patterns []string) ([]*pkg, error) {
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	out, err := goTool(ctx, "", append([]string{"list", "-e", "-json=ImportPath,Dir,Module,TestGoFiles,XTestGoFiles"}, patterns...)...)
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, out)
	}
	var all []*pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		if len(p.TestGoFiles)+len(p.XTestGoFiles) > 0 {
			all = append(all, &p)
		}
	}
}

// goTool is the go command for arm64, without C; its standard output.
func goTool(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	return cmd.CombinedOutput()
}

type counts struct{ passed, skipped, cannot int }

func (c counts) add(o counts) counts {
	return counts{c.passed + o.passed, c.skipped + o.skipped, c.cannot + o.cannot}
}

// test builds a package's tests and runs them; faults is what is not as it should be.
func (p *pkg) test(ctx context.Context, program string) (c counts, faults []string) {
	out, err := goTool(ctx, p.Dir, "test", "-c", "-vet=off", "-o", program, ".")
	if whole := p.entry("*"); whole != nil {
		if err == nil {
			_, err = emulate(ctx, p.Dir, program, testTime, "-test.failfast", "-test.timeout="+testTime.String())
		}
		if err == nil {
			return counts{}, []string{"passes now: take it off cannot.txt"}
		}
		return counts{cannot: 1}, nil
	}
	if err != nil {
		return c, []string{fmt.Sprintf("does not build: %v: %s", err, out)}
	}
	args := []string{"-test.v", "-test.timeout=" + packageTime.String()}
	if skip := p.skip(); skip != "" {
		args = append(args, "-test.skip="+skip)
	}
	text, err := emulate(ctx, p.Dir, program, packageTime, args...)
	v := verdicts(text)
	c.passed, c.skipped = len(v["PASS"]), len(v["SKIP"])
	for _, name := range v["FAIL"] {
		faults = append(faults, name+" fails: "+about(text, name))
	}
	if err != nil && len(faults) == 0 {
		faults = append(faults, fmt.Sprintf("%v: %s", err, tail(text)))
	}
	for _, e := range p.cannot {
		c.cannot++
		text, err := emulate(ctx, p.Dir, program, testTime, "-test.v", "-test.timeout="+testTime.String(), "-test.run=^"+e.test+"$")
		if v := verdicts(text); err == nil || len(v["PASS"]) > 0 {
			faults = append(faults, e.test+" passes, is skipped or is gone: take it off cannot.txt")
		}
	}
	return c, faults
}

// emulate runs a test program for arm64.
func emulate(ctx context.Context, dir, program string, limit time.Duration, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit+30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, emulator, append([]string{program}, args...)...)
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	// What these start are this machine's programs.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "QEMU_LD_PREFIX=/usr/aarch64-linux-gnu")
	return cmd.CombinedOutput()
}

func (p *pkg) entry(test string) *entry {
	i := slices.IndexFunc(p.cannot, func(e entry) bool { return e.test == test })
	if i < 0 {
		return nil
	}
	return &p.cannot[i]
}

func (p *pkg) skip() string {
	var names []string
	for _, e := range p.cannot {
		names = append(names, "^"+e.test+"$")
	}
	return strings.Join(names, "|")
}

var verdict = regexp.MustCompile(`(?m)^--- (PASS|FAIL|SKIP): (\S+)`)

// verdicts are the names of tests, without those within them, by how they ended.
func verdicts(text []byte) map[string][]string {
	v := map[string][]string{}
	for _, m := range verdict.FindAllSubmatch(text, -1) {
		v[string(m[1])] = append(v[string(m[1])], string(m[2]))
	}
	return v
}

// about is some of what was said of a test that failed.
func about(text []byte, name string) string {
	_, after, _ := bytes.Cut(text, []byte("--- FAIL: "+name+" "))
	return short(after)
}

func tail(text []byte) string { return short(text[max(0, len(text)-600):]) }

func short(text []byte) string {
	return strings.Join(strings.Fields(string(text[:min(len(text), 600)])), " ")
}
