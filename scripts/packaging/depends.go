package main

import (
	"debug/elf"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// owners is Debian's packages of libraries, and the prefix of the versions that they
// give their symbols. Debian's package of libstdc++ is counted by GCC's versions,
// so that those of its symbols are looked up in cxx.
var owners = map[string]struct{ pkg, symbols string }{
	"libc.so.6":             {"libc6", "GLIBC_"},
	"libm.so.6":             {"libc6", "GLIBC_"},
	"libdl.so.2":            {"libc6", "GLIBC_"},
	"libpthread.so.0":       {"libc6", "GLIBC_"},
	"librt.so.1":            {"libc6", "GLIBC_"},
	"libresolv.so.2":        {"libc6", "GLIBC_"},
	"ld-linux-aarch64.so.1": {"libc6", "GLIBC_"},
	"ld-linux-armhf.so.3":   {"libc6", "GLIBC_"},
	"ld-linux-x86-64.so.2":  {"libc6", "GLIBC_"},
	"libstdc++.so.6":        {"libstdc++6", "GLIBCXX_"},
	"libgcc_s.so.1":         {"libgcc-s1", ""},
}

// cxx is since which GCC libstdc++ has had the symbols of a version GLIBCXX_3.4.x.
var cxx = []struct {
	minor int
	gcc   string
}{{21, "5"}, {22, "6"}, {24, "7"}, {25, "8"}, {28, "9"}, {29, "11"}, {30, "12"}, {32, "13"}, {33, "14"}}

// depends writes what a package with these ELF files depends on. Libraries that are
// among the files themselves are left out.
func depends(out io.Writer, files []string) error {
	own := map[string]bool{}
	for _, f := range files {
		own[filepath.Base(f)] = true
	}
	least := map[string]string{}
	for _, f := range files {
		if err := needs(f, own, least); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
	}
	var list []string
	for _, pkg := range slices.Sorted(maps.Keys(least)) {
		if v := least[pkg]; v != "" {
			pkg += " (>= " + v + ")"
		}
		list = append(list, pkg)
	}
	_, err := fmt.Fprintln(out, strings.Join(list, ", "))
	return err
}

// needs adds what one file needs to the least versions of packages.
func needs(path string, own map[string]bool, least map[string]string) error {
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, lib := range libs {
		owner, known := owners[lib]
		if !known && !own[lib] {
			return fmt.Errorf("needs %s, and nobody knows whose that is", lib)
		}
		if known && least[owner.pkg] == "" {
			least[owner.pkg] = ""
		}
	}
	symbols, err := f.DynamicVersionNeeds()
	if err != nil {
		return nil // a program without any
	}
	for _, n := range symbols {
		owner := owners[n.Name]
		for _, v := range n.Needs {
			number, ok := strings.CutPrefix(v.Dep, owner.symbols)
			if !ok || owner.symbols == "" {
				continue
			}
			if owner.pkg == "libstdc++6" {
				if number = gcc(number); number == "" {
					return fmt.Errorf("needs %s, which no known GCC has", v.Dep)
				}
			}
			if newer(number, least[owner.pkg]) {
				least[owner.pkg] = number
			}
		}
	}
	return nil
}

// gcc is the oldest GCC that has symbols of GLIBCXX version.
func gcc(version string) string {
	minor := 0
	if m, ok := strings.CutPrefix(version, "3.4."); ok {
		minor, _ = strconv.Atoi(m)
	}
	for _, c := range cxx {
		if minor <= c.minor {
			return c.gcc
		}
	}
	return ""
}

// newer compares versions of numbers and dots.
func newer(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		var x, y int
		if i < len(as) {
			x, _ = strconv.Atoi(as[i])
		}
		if i < len(bs) {
			y, _ = strconv.Atoi(bs[i])
		}
		if x != y {
			return x > y
		}
	}
	return false
}
