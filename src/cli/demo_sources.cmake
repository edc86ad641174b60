# Sources of the verbs demo, plan and bench. CMakeLists.txt of this folder includes this file.
set(DUO_DEMO_SOURCES
  bench_table.cc
  cmd_bench.cc
  cmd_demo.cc
  cmd_plan.cc
  shape_options.cc)

if(DUO_BUILD_TESTS)
  add_test(NAME demo_bench_plan_test
    COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tests/demo_bench_plan_test.py $<TARGET_FILE:duo>)
  set_tests_properties(demo_bench_plan_test PROPERTIES LABELS cli)
endif()
