package main

import (
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// A page is what a program's --help says of one command.
type page struct {
	name     string // with the names of the commands above it
	about    string // what stands before "Usage:"
	rest     string // from there on
	commands []string
}

// man writes the manual page of a program: what --help says of it and of all its
// commands.
func man(out io.Writer, program, date string) error {
	name := filepath.Base(program)
	root, err := help(program, name)
	if err != nil {
		return err
	}
	short, _, _ := strings.Cut(root.about, "\n")
	short = strings.TrimPrefix(short, name+" ")
	fmt.Fprintf(out, ".TH %s 1 %s Covey \"User Commands\"\n", strings.ToUpper(roff(name)), roff(date))
	fmt.Fprintf(out, ".SH NAME\n%s \\- %s\n", roff(name), roff(strings.ToLower(short[:1])+strings.TrimSuffix(short[1:], ".")))
	fmt.Fprintf(out, ".SH SYNOPSIS\n.B %s\n[command] [flags]\n.SH DESCRIPTION\n", roff(name))
	literal(out, root.about, root.rest)
	fmt.Fprint(out, ".SH COMMANDS\n")
	if err := below(out, program, root); err != nil {
		return err
	}
	fmt.Fprint(out, ".SH SEE ALSO\nhttps://github.com/covey\\-edge/covey\n")
	return nil
}

// below writes the commands under a page, each with those under it.
func below(out io.Writer, program string, above page) error {
	for _, c := range above.commands {
		p, err := help(program, above.name+" "+c)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, ".SS %s\n", roff(p.name))
		literal(out, p.about, p.rest)
		if err := below(out, program, p); err != nil {
			return err
		}
	}
	return nil
}

// help asks a program for the page of a command, "covey rollout plan".
func help(program, name string) (page, error) {
	args := append(strings.Fields(name)[1:], "--help")
	text, err := exec.Command(program, args...).Output()
	if err != nil {
		return page{}, fmt.Errorf("%s --help: %w", name, err)
	}
	p := parse(string(text))
	p.name = name
	return p, nil
}

var (
	heading = regexp.MustCompile(`^[A-Z][\w, ]*:$`)
	command = regexp.MustCompile(`^  ([a-z][a-z0-9-]*) +\S`)
)

// parse takes a page of --help apart. help and completion, which every program
// has, are not among the commands.
func parse(text string) (p page) {
	about, rest, _ := strings.Cut(text, "\nUsage:\n")
	p.about, p.rest = strings.TrimSpace(about), "Usage:\n"+strings.TrimRight(rest, "\n")
	if !strings.Contains(rest, "[command]") {
		return p
	}
	under := ""
	for line := range strings.Lines(rest) {
		line = strings.TrimRight(line, "\n")
		if heading.MatchString(line) {
			under = line
		}
		m := command.FindStringSubmatch(line)
		if m == nil || under == "" || under == "Examples:" || under == "Aliases:" || m[1] == "help" || m[1] == "completion" {
			continue
		}
		p.commands = append(p.commands, m[1])
	}
	return p
}

// literal writes texts as they are, line for line.
func literal(out io.Writer, texts ...string) {
	for _, text := range texts {
		if text == "" {
			continue
		}
		fmt.Fprint(out, ".PP\n.nf\n")
		for line := range strings.Lines(text) {
			line = roff(strings.TrimRight(line, "\n"))
			if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
				line = `\&` + line
			}
			fmt.Fprintln(out, line)
		}
		fmt.Fprint(out, ".fi\n")
	}
}

// roff is text without what roff would take for itself.
func roff(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "’", `\(aq`).Replace(text)
}
