// Command packaging makes what stands in a package beside the programs, out of the
// programs themselves: manual pages, the libraries they need, their licences, and
// the list of what they are made of. scripts/package calls it.
//
//	packaging man PROGRAM DATE                      a page of section 1
//	packaging depends FILE…                         Debian's names of the libraries that ELF files need
//	packaging licences FILE…                        the texts of all that is in them
//	packaging icon WIDTH HEIGHT                     a PNG
//	packaging sbom NAME VERSION ARCH EPOCH FILE…    CycloneDX
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "packaging:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	switch {
	case len(args) == 3 && args[0] == "man":
		return man(out, args[1], args[2])
	case len(args) > 1 && args[0] == "depends":
		return depends(out, args[1:])
	case len(args) > 1 && args[0] == "licences":
		return licences(out, args[1:])
	case len(args) == 3 && args[0] == "icon":
		var width, height int
		if _, err := fmt.Sscan(args[1]+" "+args[2], &width, &height); err != nil || min(width, height) < 1 || max(width, height) > 4096 {
			return fmt.Errorf("%s × %s is no size", args[1], args[2])
		}
		return icon(out, width, height)
	case len(args) > 5 && args[0] == "sbom":
		seconds, err := strconv.ParseInt(args[4], 10, 64)
		if err != nil {
			return fmt.Errorf("seconds since 1970: %w", err)
		}
		return sbom(out, subject{args[1], args[2], args[3], time.Unix(seconds, 0).UTC()}, args[5:])
	}
	return fmt.Errorf("what is %q? See scripts/packaging/main.go", args)
}
