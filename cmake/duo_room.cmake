# duo_room(<room> SOURCES a.cc... [ROOMS lower rooms...] [LIBS private libraries...])
# Defines the static library duo_<room> of a room. Sources are listed by hand.
function(duo_room room)
  cmake_parse_arguments(ARG "" "" "SOURCES;ROOMS;LIBS" ${ARGN})
  add_library(duo_${room} STATIC ${ARG_SOURCES})
  target_include_directories(duo_${room} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>
    $<INSTALL_INTERFACE:include>)
  target_compile_features(duo_${room} PUBLIC cxx_std_20)
  set_target_properties(duo_${room} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  foreach(lower IN LISTS ARG_ROOMS)
    target_link_libraries(duo_${room} PUBLIC duo_${lower})
  endforeach()
  if(ARG_LIBS)
    target_link_libraries(duo_${room} PRIVATE ${ARG_LIBS})
  endif()
  set_property(GLOBAL APPEND PROPERTY DUO_ROOMS ${room})
endfunction()

# duo_test(<name> SOURCES x_test.cc... ROOMS rooms... [LIBS ...]): a GoogleTest program; each TEST is one ctest test.
# DUO_SHARED_DIR is the optional folder with data outside the repository. Tests whose data is missing print SKIPPED.
function(duo_test name)
  if(NOT DUO_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;ROOMS;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  foreach(lower IN LISTS ARG_ROOMS)
    target_link_libraries(${name} PRIVATE duo_${lower})
  endforeach()
  target_link_libraries(${name} PRIVATE duo_data_for_test ${ARG_LIBS} GTest::gmock GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST PROPERTIES LABELS unit)
endfunction()
