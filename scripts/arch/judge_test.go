package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A pkg is one folder with Go files in it.
type pkg struct {
	dir     string // as "fleet/wire"; "." is the top
	name    string // package clause, without _test
	doc     bool   // has a package comment
	imports []use
	inits   []string // files with an init function
}

// A use is one import in one file.
type use struct {
	path string
	file string
	test bool
}

// read parses every Go file of the tree, whatever its build constraints.
func read(tree fs.FS) ([]*pkg, error) {
	found := map[string]*pkg{}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (d.Name() == "testdata" || d.Name() == "bin" || strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		src, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		if found[dir] == nil {
			found[dir] = &pkg{dir: dir}
		}
		found[dir].add(name, file)
		return nil
	})
	packages := make([]*pkg, 0, len(found))
	for _, p := range found {
		packages = append(packages, p)
	}
	slices.SortFunc(packages, func(a, b *pkg) int { return strings.Compare(a.dir, b.dir) })
	return packages, err
}

func (p *pkg) add(name string, file *ast.File) {
	p.name = strings.TrimSuffix(file.Name.Name, "_test")
	if file.Doc != nil && strings.TrimSpace(file.Doc.Text()) != "" {
		p.doc = true
	}
	for _, spec := range file.Imports {
		to, _ := strconv.Unquote(spec.Path.Value)
		p.imports = append(p.imports, use{to, name, strings.HasSuffix(name, "_test.go")})
	}
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			p.inits = append(p.inits, name)
		}
	}
}

// judge returns one line for every way that should not be.
func judge(packages []*pkg) (lines []string) {
	for _, p := range packages {
		if p.dir == "." {
			lines = append(lines, "the top holds a Go package: every package lives in a room")
			continue
		}
		if !p.doc {
			lines = append(lines, p.dir+": has no package comment")
		}
		if slices.Contains(unclear, path.Base(p.dir)) {
			lines = append(lines, p.dir+": the name says nothing of what it holds")
		}
		for _, file := range p.inits {
			lines = append(lines, file+": has an init function; drivers are values that main hands in")
		}
		for _, u := range p.imports {
			if why := forbidden(p.dir, u); why != "" {
				lines = append(lines, fmt.Sprintf("%s: imports %s: %s", u.file, u.path, why))
			}
		}
	}
	return append(lines, impure(packages)...)
}

// forbidden says why a package may not use an import; "" when it may.
func forbidden(dir string, u use) string {
	to, ours := strings.CutPrefix(u.path, module+"/")
	switch {
	case u.path == "C":
		if !slices.Contains(cgo, dir) {
			return "cgo is for " + strings.Join(cgo, ", ")
		}
	case ours && slices.Contains(leaves, to):
		if slices.Contains(leaves, dir) && to != dir {
			return "a leaf imports the standard library alone"
		}
	case ours:
		if to != dir && !mayImport(dir, to, u.test) {
			return "no arrow leads there"
		}
	case strings.Contains(strings.Split(u.path, "/")[0], "."):
		return foreign(dir, u)
	}
	return ""
}

func mayImport(dir, to string, test bool) bool {
	for _, a := range arrows {
		if !fits(a.room, dir) {
			continue
		}
		if anyFits(a.may, to) || strings.HasSuffix(a.room, "/...") && fits(a.room, to) {
			return true
		}
		break
	}
	if test {
		for _, a := range tests {
			if fits(a.room, dir) {
				return anyFits(a.may, to)
			}
		}
	}
	return false
}

func foreign(dir string, u use) string {
	for _, d := range deps {
		if u.path != d.module && !strings.HasPrefix(u.path, d.module+"/") {
			continue
		}
		for room := range strings.FieldsSeq(d.rooms) {
			room, testOnly := strings.CutSuffix(room, "_test")
			if fits(room, dir) && (u.test || !testOnly) {
				return ""
			}
		}
		return "it lives in " + d.rooms
	}
	return "not a known dependency; a new one needs a line in the table"
}

// impure follows the imports of the pure programs and says where they reach cgo.
func impure(packages []*pkg) (lines []string) {
	byDir := map[string]*pkg{}
	for _, p := range packages {
		byDir[p.dir] = p
	}
	for _, program := range pure {
		seen := map[string]bool{}
		var walk func(dir string)
		walk = func(dir string) {
			if seen[dir] || byDir[dir] == nil {
				return
			}
			seen[dir] = true
			for _, u := range byDir[dir].imports {
				if u.test {
					continue
				}
				if u.path == "C" {
					lines = append(lines, fmt.Sprintf("%s: reaches cgo through %s", program, dir))
				}
				if to, ours := strings.CutPrefix(u.path, module+"/"); ours {
					walk(to)
				}
			}
		}
		walk(program)
	}
	return lines
}

// judgeTop returns one line for every folder that should not stand at the top.
func judgeTop(tree fs.FS) (lines []string, err error) {
	entries, err := fs.ReadDir(tree, ".")
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(top, e.Name()) {
			lines = append(lines, e.Name()+"/: no such room; the rooms are agent, fleet, hal, firmware, scripts")
		}
	}
	return lines, err
}

// fits says whether dir is covered by a pattern: "x" is x, "x/..." is x and below.
func fits(pattern, dir string) bool {
	if room, ok := strings.CutSuffix(pattern, "/..."); ok {
		return dir == room || strings.HasPrefix(dir, room+"/")
	}
	return pattern == dir
}

func anyFits(patterns, dir string) bool {
	for p := range strings.FieldsSeq(patterns) {
		if fits(p, dir) {
			return true
		}
	}
	return false
}
