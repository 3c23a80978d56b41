package main

import "errors"

func kafkaJUnit(env, []entry) ([]result, error) { return nil, errors.New("not there yet") }
