package numbers

import (
	"fmt"
	"strings"
	"testing"

	"github.com/covey-edge/covey/hal"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		format   Format
		channels []string
		messages []string
		want     string
	}{
		{CSV, nil, []string{"1,2.5, -3e2\r\n", "4,5,6"}, "[1 2.5 -300] [4 5 6]"},
		{CSV, nil, []string{"1;2", "1\t2", "  1   2 ", "7 8"}, "[1 2] [1 2] [1 2] [7 8]"},
		{CSV, nil, []string{"12"}, "[12]"},
		{CSV, []string{}, []string{"1,2"}, "[1 2]"},
		{CSV, nil, []string{"1,2", "1,2,3", "1", "1,,2", "1,x"}, "[1 2] (3 numbers after messages of 2) (1 numbers after messages of 2) (3 numbers after messages of 2) (not a number: \"x\")"},
		{CSV, nil, []string{"1,", "nan", "inf", "0x10", "1e99", "1_0", "\x00\xff", " "}, "(not a number: \"\") (not a number: \"nan\") (not a number: \"inf\") (not a number: \"0x10\") (not a number: \"1e99\") (not a number: \"1_0\") (not a number: \"\\x00\\xff\") (empty message)"},
		{CSV, []string{"2", "0"}, []string{"1,2,3", "x,2,3", "1,2,3,4", "1,2", "5,x,6"}, "[3 1] (not a number: \"x\") [3 1] (2 numbers, and no channel 2) [6 5]"},
		{JSON, nil, []string{"[1,2]", " [3, true] ", "[1]", "[1,[2]]", `{"a":1}`}, "[1 2] [3 1] (1 numbers after messages of 2) (not a number: \"[2]\") (an object after lists of numbers)"},
		{JSON, nil, []string{"21.5", "false", "null", `"5"`, `"on"`}, "[21.5] [0] (no number there) [5] (not a number: \"on\")"},
		{JSON, nil, []string{`{"name":"x","b":2,"a":1}`, `{"a":3,"b":4,"c":5}`, `{"a":3}`}, "[1 2] [3 4] (\"b\": no number there)"},
		{JSON, []string{"accel.x", "t"}, []string{`{"accel":{"x":.5}}`, `{"accel":{"x":0.5},"t":20}`, `{"accel.x":7,"t":1}`, `{"accel":5,"t":1}`, "[1,2]"},
			"(no JSON: invalid character '.' looking for beginning of value) [0.5 20] [7 1] (\"accel.x\": no number there) (no object with a key \"accel.x\")"},
		{JSON, []string{"1"}, []string{"[5,6,7]", `{"1":9}`, "[5]"}, "[6] [9] (1 numbers, and no channel 1)"},
		{JSON, []string{"-1"}, []string{"[5]", `{"-1":3}`}, "(no object with a key \"-1\") [3]"},
		{JSON, nil, []string{"[1] 2", "{", `{"a":"b"}`, "[]", "[1e999]"}, "(something behind the JSON) (no JSON: unexpected EOF) (0 numbers in the object: 1 to 256 can be read) (0 numbers: 1 to 256 can be read) (not a number: \"1e999\")"},
	} {
		p, err := New(tt.format, tt.channels)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range tt.messages {
			v, err := p.Parse(nil, []byte(m))
			if err != nil {
				got = append(got, fmt.Sprintf("(%v)", err))
				if len(v) != 0 {
					t.Errorf("%q: %v besides an error", m, v)
				}
				continue
			}
			if len(v) != p.Channels() {
				t.Errorf("%q: %d numbers of %d channels", m, len(v), p.Channels())
			}
			got = append(got, fmt.Sprint(v))
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("%s %v %q\ngot  %s\nwant %s", tt.format, tt.channels, tt.messages, got, tt.want)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		format   Format
		channels []string
	}{{"xml", nil}, {CSV, []string{"x"}}, {CSV, []string{"-1"}}, {CSV, []string{"99999999"}}, {JSON, make([]string, 257)}} {
		if _, err := New(tt.format, tt.channels); hal.CodeOf(err) != hal.CodeConfig {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1,2,3", "4,5", false, "")
	f.Add(`{"a":{"b":1}}`, `[1]`, true, "a.b")
	f.Fuzz(func(t *testing.T, first, second string, asJSON bool, channel string) {
		format, channels := CSV, []string(nil)
		if asJSON {
			format = JSON
		}
		if channel != "" {
			channels = []string{channel}
		}
		p, err := New(format, channels)
		if err != nil {
			return
		}
		for _, m := range []string{first, second} {
			v, err := p.Parse([]float32{42}, []byte(m))
			if v[0] != 42 || err != nil && len(v) != 1 || err == nil && len(v) != 1+p.Channels() {
				t.Fatalf("%q: %v, %v", m, v, err)
			}
			for _, x := range v {
				if x-x != 0 {
					t.Fatalf("%q: %v", m, v)
				}
			}
		}
	})
}
