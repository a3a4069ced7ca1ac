package task

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/covey-edge/covey/hal"
)

// Limits of a label file.
const (
	maxLabels     = 10_000
	maxLabelBytes = 256
)

// ParseLabels reads a label file: a label a line, or an id and a label a line as
// Coral writes them ("16  cat"), where ids that are left out become "". Empty
// input gives nil. Errors are E_LABELS.
func ParseLabels(b []byte) ([]string, error) {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	b = bytes.TrimRight(b, " \t\r\n\x00")
	if len(b) == 0 {
		return nil, nil
	}
	if n := bytes.Count(b, []byte("\n")) + 1; n > maxLabels {
		return nil, labelsError("%d lines, at most %d are allowed", n, maxLabels)
	}
	var labels []string
	for line := range strings.SplitSeq(string(b), "\n") {
		line = strings.TrimSpace(line)
		if n := len(labels) + 1; len(line) > maxLabelBytes || !utf8.ValidString(line) || strings.ContainsFunc(line, control) {
			return nil, labelsError("line %d is not a text of up to %d bytes", n, maxLabelBytes)
		}
		labels = append(labels, line)
	}
	if numbered, ok := byID(labels); ok {
		return numbered, nil
	}
	return labels, nil
}

func control(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// byID puts "id label" lines in the order of their ids; ok is false unless every
// line is of that form and no id comes twice.
func byID(lines []string) (labels []string, ok bool) {
	for _, line := range lines {
		if line == "" {
			continue
		}
		end := strings.IndexAny(line, " \t:")
		if end < 1 {
			return nil, false
		}
		id, err := strconv.Atoi(line[:end])
		if err != nil || id < 0 || id >= maxLabels {
			return nil, false
		}
		for len(labels) <= id {
			labels = append(labels, "")
		}
		name := strings.TrimLeft(line[end:], " \t:")
		if name == "" || labels[id] != "" {
			return nil, false
		}
		labels[id] = name
	}
	return labels, len(labels) > 0
}

func labelsError(format string, args ...any) error {
	return &hal.Error{Code: hal.CodeLabels, Text: "label file: " + fmt.Sprintf(format, args...) + "; give one label a line"}
}

// background says whether labels begin with the class that means nothing.
func background(labels []string) bool {
	if len(labels) == 0 {
		return false
	}
	switch strings.ToLower(labels[0]) {
	case "???", "background", "__background__":
		return true
	}
	return false
}

// names makes the label of every class: labels[class+offset], and "class 7" where
// there is none.
func names(labels []string, classes, offset int) []string {
	n := make([]string, classes)
	for i := range n {
		if at := i + offset; at >= 0 && at < len(labels) && labels[at] != "" {
			n[i] = labels[at]
		} else {
			n[i] = "class " + strconv.Itoa(i)
		}
	}
	return n
}
