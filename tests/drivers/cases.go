// What the drivers for Go share; each is compiled with this file.
package main

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
)

const (
	crowd    = 24
	rounds   = 8
	megabyte = 1024 * 1024
)

var ctx = context.Background()

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func equal[T any](found, expected T) {
	if !reflect.DeepEqual(found, expected) {
		panic(fmt.Sprintf("%v is not %v", found, expected))
	}
}

// Says the name of each case before it runs.
func run(cases ...func()) {
	for _, named := range cases {
		fmt.Println(runtime.FuncForPC(reflect.ValueOf(named).Pointer()).Name())
		named()
	}
}
