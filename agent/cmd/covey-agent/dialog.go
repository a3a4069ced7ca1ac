package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// A dialog asks a person, on a terminal or through pipes.
type dialog struct {
	ctx context.Context
	in  *bufio.Reader
	out io.Writer
	fd  int // of the terminal that secrets are typed into without being shown; -1: there is none
}

// errStopped is what an answer is when the person stops, or the input ends.
var errStopped = errors.New("stopped: nothing was changed")

// maxLine is the longest answer, bytes.
const maxLine = 8 << 10

func newDialog(ctx context.Context, in io.Reader, out io.Writer) *dialog {
	d := &dialog{ctx: ctx, in: bufio.NewReaderSize(in, maxLine), out: out, fd: -1}
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		d.fd = int(f.Fd())
	}
	return d
}

// say prints text that fits a terminal of 80 columns.
func (d *dialog) say(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		fmt.Fprintln(d.out, wrapped(line, 79))
	}
}

// wrapped breaks a line at spaces. What follows is indented as the line is, and what has
// no spaces stays whole.
func wrapped(line string, width int) string {
	indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
	var b strings.Builder
	at := 0
	for i, word := range strings.Split(line[len(indent):], " ") {
		n := len([]rune(word))
		switch {
		case i == 0:
			b.WriteString(indent)
			at = len(indent)
		case at+1+n > width:
			b.WriteString("\n" + indent)
			at = len(indent)
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}

// ask asks for a line. An empty one is otherwise.
func (d *dialog) ask(question, otherwise string) (string, error) {
	fmt.Fprint(d.out, "  "+question)
	if otherwise != "" {
		fmt.Fprintf(d.out, " [%s]", otherwise)
	}
	fmt.Fprint(d.out, ": ")
	line, err := d.wait(d.line)
	if line == "" {
		line = otherwise
	}
	return line, err
}

// secret asks for a line that is not shown where it is typed. The terminal is as before
// when it returns, whatever ends it.
func (d *dialog) secret(question string) (text string, err error) {
	if d.fd >= 0 {
		before, err := unix.IoctlGetTermios(d.fd, unix.TCGETS)
		if err != nil {
			return "", fmt.Errorf("ask the terminal: %w", err)
		}
		silent := *before
		silent.Lflag &^= unix.ECHO
		if err := unix.IoctlSetTermios(d.fd, unix.TCSETS, &silent); err != nil { // before anybody knows that he may type
			return "", fmt.Errorf("keep the terminal from showing what is typed: %w", err)
		}
		defer func() {
			fmt.Fprintln(d.out)
			unix.IoctlSetTermios(d.fd, unix.TCSETS, before) // it took the other
		}()
	}
	fmt.Fprint(d.out, "  "+question+": ")
	return d.wait(d.line)
}

// line reads one. The end of the input is no answer.
func (d *dialog) line() (string, error) {
	line, err := d.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("an answer of more than %d bytes; nothing was changed", maxLine)
	case err != nil && len(line) == 0:
		return "", errStopped
	}
	return strings.TrimSpace(string(line)), nil
}

// wait waits for an answer, or for the end of the program: what reads then still does,
// and ends with it.
func (d *dialog) wait(read func() (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		text, err := read()
		got <- answer{text, err}
	}()
	select {
	case a := <-got:
		if errors.Is(a.err, io.EOF) {
			a.err = errStopped
		}
		return a.text, a.err
	case <-d.ctx.Done():
		fmt.Fprintln(d.out)
		return "", errStopped
	}
}

// choose asks for one of the words, of which the first letter is enough.
func (d *dialog) choose(question, otherwise string, words ...string) (string, error) {
	for {
		got, err := d.ask(question, otherwise)
		if err != nil {
			return "", err
		}
		for _, w := range words {
			if got != "" && strings.HasPrefix(w, strings.ToLower(got)) {
				return w, nil
			}
		}
		d.say("  Answer with %s.", strings.Join(words, " or "))
	}
}
