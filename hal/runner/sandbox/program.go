package sandbox

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A program is a file to execute, and how.
type program struct {
	path   string // of the file to execute: of a script, its interpreter
	argv   []string
	script string // "" or the script
	loader string // "" or the ELF loader that the kernel will start
}

// maxShebang is how much of a script's first line the kernel looks at, in bytes.
const maxShebang = 256

// find looks at the program argv[0]. Of a script it finds the interpreter as the
// kernel would; "/usr/bin/env NAME" is looked up in the PATH of env here, for env
// could not start anything.
func find(argv, env []string) (*program, error) {
	p := &program{path: argv[0], argv: argv}
	if !filepath.IsAbs(p.path) {
		return nil, fmt.Errorf("program %s: want an absolute path", p.path)
	}
	head, err := p.read()
	if err != nil {
		return nil, err
	}
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		words, err := interpreter(line, env)
		if err != nil {
			return nil, fmt.Errorf("script %s: %w", p.path, err)
		}
		p.script, p.path, p.argv = p.path, words[0], append(words, argv...)
		if head, err = p.read(); err != nil {
			return nil, fmt.Errorf("script %s: %w", p.script, err)
		}
		if bytes.HasPrefix(head, []byte("#!")) {
			return nil, fmt.Errorf("script %s: its interpreter %s is a script too: name the real one in its first line", p.script, p.path)
		}
	}
	return p, nil
}

// read reads the first bytes of the file at p.path, and which loader it asks for.
func (p *program) read() ([]byte, error) {
	f, err := os.Open(p.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, maxShebang)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("read %s: %w", p.path, err)
	}
	p.loader = loader(f)
	return head[:n], nil
}

// interpreter is the program and at most one argument in a first line, after "#!".
func interpreter(line []byte, env []string) ([]string, error) {
	first, _, whole := bytes.Cut(line, []byte("\n"))
	if !whole {
		return nil, fmt.Errorf("its first line is longer than %d bytes", maxShebang)
	}
	name, argument, _ := strings.Cut(strings.TrimSpace(string(first)), " ")
	argument = strings.TrimSpace(argument)
	if filepath.Base(name) == "env" {
		at, err := lookPath(argument, env)
		return []string{at}, err
	}
	if !filepath.IsAbs(name) {
		return nil, fmt.Errorf("its interpreter %q is no absolute path", name)
	}
	if argument == "" {
		return []string{name}, nil
	}
	return []string{name, argument}, nil
}

// lookPath finds a program in the PATH of an environment.
func lookPath(name string, env []string) (string, error) {
	path := "/usr/local/bin:/usr/bin:/bin"
	for _, e := range env {
		if p, ok := strings.CutPrefix(e, "PATH="); ok {
			path = p
		}
	}
	if name == "" || strings.ContainsAny(name, "/ =") || strings.HasPrefix(name, "-") {
		return "", fmt.Errorf("want \"env NAME\" in its first line, got %q", name)
	}
	for _, dir := range filepath.SplitList(path) {
		at := filepath.Join(dir, name)
		if st, err := os.Stat(at); filepath.IsAbs(at) && err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return at, nil
		}
	}
	return "", fmt.Errorf("no %s in %s", name, path)
}

// loader is the ELF loader of a program, "" if it has none or is no ELF file: then
// the kernel says what it thinks of it.
func loader(f io.ReaderAt) string {
	file, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err != nil {
				return ""
			}
			return string(bytes.TrimRight(name, "\x00"))
		}
	}
	return ""
}
