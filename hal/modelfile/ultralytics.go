package modelfile

import (
	"bytes"
	"strconv"
	"strings"
)

// ultralytics returns the class names that an Ultralytics export keeps in a text
// file behind the model, a name a line; nil when there is none. The file is a
// Python or JSON dictionary with names: {0: 'person', 1: 'bicycle', …}.
func (m *Model) ultralytics() []byte {
	if m.ONNX != nil {
		return m.onnxNames()
	}
	for _, f := range m.Files {
		if f.Name != "metadata.json" && !strings.HasSuffix(f.Name, ".txt") && !strings.HasPrefix(f.Name, "temp_meta") {
			continue
		}
		if names := dictionaryNames(f.Data); names != nil {
			return names
		}
	}
	return nil
}

// dictionaryNames reads the names of a dictionary; indexes must count from 0.
func dictionaryNames(b []byte) []byte {
	_, b, ok := bytes.Cut(b, []byte("names"))
	if !ok || !bytes.HasPrefix(bytes.TrimLeft(b, `'": `), []byte("{")) {
		return nil
	}
	b = bytes.TrimLeft(b, `'": {`)
	var names []byte
	for want := 0; len(b) > 0 && b[0] != '}'; want++ {
		key, rest, ok := bytes.Cut(b, []byte(":"))
		if !ok || string(bytes.Trim(key, `"' `)) != strconv.Itoa(want) {
			return nil
		}
		rest = bytes.TrimLeft(rest, " ")
		if len(rest) < 2 || rest[0] != '\'' && rest[0] != '"' {
			return nil
		}
		end := bytes.IndexByte(rest[1:], rest[0])
		if end < 0 {
			return nil
		}
		names = append(append(names, bytes.ReplaceAll(rest[1:1+end], []byte("\n"), nil)...), '\n')
		b = bytes.TrimLeft(rest[end+2:], ", ")
	}
	return names
}
