// Package numbers reads what sensors send as text: a line of numbers, or a JSON
// value. It is pure.
package numbers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/covey-edge/covey/hal"
	"github.com/covey-edge/covey/hal/source/window"
)

// A Format is how numbers are written.
type Format string

const (
	CSV  Format = "csv"  // numbers between commas, semicolons, tabs or spaces
	JSON Format = "json" // an object, a list of numbers, or a number
)

// A Parser reads one message at a time. A message is one sample of all channels.
type Parser struct {
	format   Format
	channels []string // nil until the first message tells
	columns  []int    // the channels, in lists of numbers
	width    int      // CSV and lists: numbers in a message; 0: not known yet
}

// New makes a Parser for some of the numbers of each message: columns counted from 0
// for CSV and for lists of JSON; keys for objects, "accel.x" being x in accel. None
// are all those in the first message that can be read, and the next ones have to have
// the same; of an object its numbers, in the order of their keys. What makes no sense
// is E_CONFIG.
func New(format Format, channels []string) (*Parser, error) {
	p := &Parser{format: format}
	if len(channels) > 0 {
		p.channels = channels
	}
	if format != CSV && format != JSON {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("numbers as %q: give csv or json", format)}
	}
	if len(channels) > window.MostChannels {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("%d channels: give at most %d", len(channels), window.MostChannels)}
	}
	if p.columns = columns(channels); format == CSV && slices.Contains(p.columns, -1) {
		return nil, &hal.Error{Code: hal.CodeConfig, Text: fmt.Sprintf("channels %.80q: give the numbers of columns, from 0", channels)}
	}
	return p, nil
}

// columns are the channels that are numbers; -1 for those that are not.
func columns(channels []string) []int {
	var c []int
	for _, s := range channels {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			c = append(c, -1)
			continue
		}
		c = append(c, int(n))
	}
	return c
}

// Channels is how many numbers Parse appends; 0 while the first message has to tell.
func (p *Parser) Channels() int {
	if p.channels == nil {
		return p.width
	}
	return len(p.channels)
}

// Parse appends the numbers of a message to dst. On an error dst is as it was.
func (p *Parser) Parse(dst []float32, message []byte) ([]float32, error) {
	message = bytes.TrimSpace(message)
	if len(message) == 0 {
		return dst, errors.New("empty message")
	}
	if p.format == JSON {
		return p.parseJSON(dst, message)
	}
	return p.parseCSV(dst, string(message))
}

func (p *Parser) parseCSV(dst []float32, line string) ([]float32, error) {
	fields := split(line)
	if err := p.fits(len(fields)); err != nil {
		return dst, err
	}
	n := len(dst)
	for i := range p.count(len(fields)) {
		v, err := parseFloat(fields[p.column(i)])
		if err != nil {
			return dst[:n], err
		}
		dst = append(dst, v)
	}
	p.learn(len(fields))
	return dst, nil
}

// split cuts at the first of these that the line has.
func split(line string) []string {
	for _, sep := range []string{",", ";", "\t"} {
		if strings.Contains(line, sep) {
			return strings.Split(line, sep)
		}
	}
	return strings.Fields(line)
}

// fits says whether a list of n numbers is one of those that were expected.
func (p *Parser) fits(n int) error {
	switch {
	case p.channels != nil:
		if most := slices.Max(p.columns); most >= n {
			return fmt.Errorf("%d numbers, and no channel %d", n, most)
		}
	case n == 0 || n > window.MostChannels:
		return fmt.Errorf("%d numbers: 1 to %d can be read", n, window.MostChannels)
	case p.width > 0 && n != p.width:
		return fmt.Errorf("%d numbers after messages of %d", n, p.width)
	}
	return nil
}

func (p *Parser) learn(n int) {
	if p.channels == nil {
		p.width = n
	}
}

// count is how many of n numbers are taken.
func (p *Parser) count(n int) int {
	if p.channels != nil {
		return len(p.channels)
	}
	return n
}

func (p *Parser) column(i int) int {
	if p.channels != nil {
		return p.columns[i]
	}
	return i
}

func (p *Parser) parseJSON(dst []float32, message []byte) ([]float32, error) {
	var value any
	d := json.NewDecoder(bytes.NewReader(message))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		return dst, fmt.Errorf("no JSON: %v", err)
	}
	if int(d.InputOffset()) != len(message) {
		return dst, errors.New("something behind the JSON")
	}
	switch v := value.(type) {
	case map[string]any:
		return p.object(dst, v)
	case []any:
		return p.list(dst, v)
	}
	return p.list(dst, []any{value})
}

func (p *Parser) list(dst []float32, list []any) ([]float32, error) {
	if i := slices.Index(p.columns, -1); i >= 0 {
		return dst, fmt.Errorf("no object with a key %.40q", p.channels[i])
	}
	if err := p.fits(len(list)); err != nil {
		return dst, err
	}
	n := len(dst)
	for i := range p.count(len(list)) {
		v, err := number(list[p.column(i)])
		if err != nil {
			return dst[:n], err
		}
		dst = append(dst, v)
	}
	p.learn(len(list))
	return dst, nil
}

func (p *Parser) object(dst []float32, o map[string]any) ([]float32, error) {
	keys := p.channels
	if keys == nil {
		if p.width > 0 {
			return dst, errors.New("an object after lists of numbers")
		}
		for _, key := range slices.Sorted(maps.Keys(o)) {
			if _, err := number(o[key]); err == nil {
				keys = append(keys, key)
			}
		}
		if len(keys) == 0 || len(keys) > window.MostChannels {
			return dst, fmt.Errorf("%d numbers in the object: 1 to %d can be read", len(keys), window.MostChannels)
		}
	}
	n := len(dst)
	for _, key := range keys {
		v, err := number(find(o, key))
		if err != nil {
			return dst[:n], fmt.Errorf("%.40q: %w", key, err)
		}
		dst = append(dst, v)
	}
	if p.channels == nil {
		p.channels, p.columns = keys, columns(keys)
	}
	return dst, nil
}

// find is the value of a key, or of "a.b" that of b in a.
func find(value any, path string) any {
	o, ok := value.(map[string]any)
	if !ok {
		return nil
	}
	if v, ok := o[path]; ok {
		return v
	}
	key, rest, more := strings.Cut(path, ".")
	if !more {
		return nil
	}
	return find(o[key], rest)
}

// number takes switches as 0 and 1, and numbers in quotes, as some sensors' makers
// write them.
func number(v any) (float32, error) {
	switch v := v.(type) {
	case json.Number:
		return parseFloat(v.String())
	case string:
		return parseFloat(v)
	case bool:
		if v {
			return 1, nil
		}
		return 0, nil
	case nil:
		return 0, errors.New("no number there")
	}
	return 0, fmt.Errorf("not a number: %.40q", fmt.Sprint(v))
}

// parseFloat reads a plain decimal number: not "inf", "0x1p3" or "1_000".
func parseFloat(s string) (float32, error) {
	s = strings.TrimSpace(s)
	v, err := strconv.ParseFloat(s, 32)
	if err != nil || math.IsInf(v, 0) || strings.Trim(s, "0123456789+-.eE") != "" {
		return 0, fmt.Errorf("not a number: %.40q", s)
	}
	return float32(v), nil
}
